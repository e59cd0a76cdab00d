"""A TRL DPO script made robust by two names: python examples/robust_dpo.py MODEL PAIRS.jsonl OUTPUT"""

import argparse
import os

from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())  # before torch is imported, for a CPU with other work (docs)
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
