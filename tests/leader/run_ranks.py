"""One training run for `accelerate launch`: what each optimiser step lost and where the weights ended, to a file."""

import json
import sys
import warnings

import torch
from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.leader import SGPOConfig, SGPOTrainer
from sgpo.leader.robust_loss import RobustLoss
from sgpo.store.processes import disconnect


def main(arguments):
    settings = json.loads(arguments)
    folder, policy, reference = (settings.pop(key) for key in ("folder", "policy", "reference"))
    warnings.filterwarnings("ignore")
    # A gap that is not finite, so that the guard must stop every rank.
    if "poisoned_row" in settings:
        losses, row = RobustLoss.losses, settings["poisoned_row"]
        RobustLoss.losses = lambda self, batch: losses(
            self, batch._replace(margins=batch.margins * torch.where(batch.tags.row == row, float("nan"), 1.0))
        )
    ends = {}
    for name, options in settings["runs"].items():
        pairs = load_from_disk(f"{folder}/{options.pop('dataset', 'pairs')}")
        trainer = SGPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(policy),
            ref_model=AutoModelForCausalLM.from_pretrained(reference),
            args=SGPOConfig(
                output_dir=f"{folder}/{name}", use_cpu=True, bf16=False, activation_checkpointing=False,
                report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1, optim="sgd",
                dataloader_pin_memory=False, **options,
            ),
            train_dataset=pairs,
            processing_class=AutoTokenizer.from_pretrained(policy),
        )  # fmt: skip
        trainer.train()
        records = [record for record in trainer.state.log_history if "loss" in record]
        ends[name] = {
            "losses": [record["loss"] for record in records],
            "prices": [record["robust/price/self"] for record in records if "robust/price/self" in record],
            "thresholds": [record["confidence/threshold"] for record in records if "confidence/threshold" in record],
            "weights": torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).tolist(),
        }
    if trainer.accelerator.is_main_process:
        with open(f"{folder}/{settings['name']}.json", "w", encoding="utf-8") as file:
            json.dump({"ranks": trainer.accelerator.num_processes, "ends": ends}, file)


if __name__ == "__main__":
    main(sys.argv[1])
    disconnect()
