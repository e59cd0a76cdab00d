"""A TRL DPO script made robust by two names: python examples/robust_dpo.py MODEL PAIRS.jsonl OUTPUT"""

import argparse
import os

if not {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & {*os.environ}:  # they say it too: how threads wait (docs/leader.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported, for a CPU with other work
import torch
from datasets import load_dataset

from sgpo.leader import SGPOConfig as DPOConfig
from sgpo.leader import SGPOTrainer as DPOTrainer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("paths", nargs=3, metavar="PATH", help="MODEL, PAIRS.jsonl and OUTPUT")
model, pairs, output = parser.parse_args().paths
args = DPOConfig(output_dir=output, use_cpu=not torch.cuda.is_available())  # and radius, space, window, step, ...
trainer = DPOTrainer(model=model, args=args, train_dataset=load_dataset("json", data_files=pairs, split="train"))
trainer.train()
trainer.save_model()
