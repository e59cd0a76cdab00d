"""TRL's DPOTrainer as the peer of tokens and scores."""

from types import SimpleNamespace

from datasets import Dataset
from trl import DPOConfig, DPOTrainer


def prepare_with_trl(tokenizer, prompts, chosen, rejected, tmp_path):
    """The rows that DPOTrainer trains on: prompt_ids, chosen_ids, rejected_ids."""
    args = DPOConfig(str(tmp_path), report_to="none", max_length=None, use_cpu=True, bf16=False)
    dataset = pairs_dataset(prompts, chosen, rejected)
    return DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), dataset, tokenizer, args, "train")


def score_with_trl(path, prompts, chosen, rejected, tmp_path, max_length=None):
    """Summed log-probabilities of chosen and rejected responses, by DPOTrainer.compute_ref_log_probs."""
    args = DPOConfig(
        str(tmp_path),
        report_to="none",
        max_length=max_length,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
    )
    trainer = DPOTrainer(str(path), args=args, train_dataset=pairs_dataset(prompts, chosen, rejected))
    inputs = trainer.data_collator([trainer.train_dataset[row] for row in range(len(trainer.train_dataset))])
    logps = trainer.compute_ref_log_probs(trainer.ref_model, inputs)
    return [part.double().numpy() for part in logps]


def pairs_dataset(prompts, chosen, rejected):
    return Dataset.from_list(
        [
            {
                "prompt": list(prompt),
                "chosen": [{"role": "assistant", "content": good}],
                "rejected": [{"role": "assistant", "content": bad}],
            }
            for prompt, good, bad in zip(prompts, chosen, rejected, strict=True)
        ]
    )
