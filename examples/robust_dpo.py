"""A TRL DPO script made robust by two names: python examples/robust_dpo.py MODEL PAIRS.jsonl OUTPUT"""

import sys

import torch
from datasets import load_dataset

from sgpo.leader import SGPOConfig as DPOConfig
from sgpo.leader import SGPOTrainer as DPOTrainer

model, pairs, output = sys.argv[1:]
trainer = DPOTrainer(
    model=model,
    # And, if you like, the follower's arguments: radius, space, window, step, schedule, ...
    args=DPOConfig(output_dir=output, use_cpu=not torch.cuda.is_available()),
    train_dataset=load_dataset("json", data_files=pairs, split="train"),
)
trainer.train()
trainer.save_model()
