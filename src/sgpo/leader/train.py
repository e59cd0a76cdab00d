"""One training of a round: a policy and a dataset of scored pairs in, a trained policy on disk out."""

import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.leader.trainer import SGPOTrainer
from sgpo.policy.load import Policy
from sgpo.robust.solution import WorstCase

Settings = dict[str, Any]


class _Steps(TrainerCallback):
    """Advances a progress bar by the optimiser steps that are done."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def on_step_end(self, args, state, control, **kwargs):
        self._advance(1)


@contextmanager
def _checking(what: str, allowed: str = "") -> Iterator[None]:
    """Turns what a library says of its arguments into an InputError that names their place in a recipe."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InputError(f"{what}: {error}{allowed}") from error


@contextmanager
def without_trl_warnings() -> Iterator[None]:
    """Hides that TRL 1.16 uses names that transformers 5.23 has deprecated, which users cannot change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
        yield


def build_arguments(settings: Settings, extra: Settings, output_dir: str) -> SGPOConfig:
    """SGPOConfig from the loop's settings and the user's own (`leader.trainer` in a recipe), which must be others."""
    known = {field.name for field in dataclasses.fields(SGPOConfig) if field.init}
    for name in extra:
        if name not in known:
            raise InputError(f"leader.trainer.{name} is unknown; allowed: an argument of SGPOConfig.")
        if name in settings or name == "output_dir":
            raise InputError(f"leader.trainer.{name} is decided by the recipe's own keys; leave it out.")
    defaults = {
        "use_cpu": not torch.cuda.is_available(),
        # By its old name, too; transformers would ignore that one beside the new one.
        "activation_checkpointing": extra.get("gradient_checkpointing", torch.cuda.is_available()),
        "logging_steps": 0.05,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        # Every weight of a language model is used in every pass; looking for others costs a walk over the graph.
        "ddp_find_unused_parameters": False,
    }
    with _checking("leader"):
        return SGPOConfig(output_dir=output_dir, **{**defaults, **settings, **extra})


@without_trl_warnings()
def train_leader(
    policy: Policy,
    pairs: Dataset,
    output: Path,
    arguments: SGPOConfig,
    *,
    reference: Policy | None = None,
    peft_config: Settings | None = None,
    worst_cases: Mapping[str, WorstCase] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[dict[str, Any]]:
    """Trains a policy on scored pairs and saves it with its tokenizer.

    Args:
        policy: the policy at the start; its model is trained in place.
        pairs: columns prompt, chosen, rejected, ref_chosen_logps, ref_rejected_logps, and with a radius > 0 also
            chosen_logps and rejected_logps, the policy's own.
        output: folder to write model and tokenizer to.
        arguments: of the trainer, but for its output_dir, which is a folder of its own.
        reference: the policy that the stored reference scores came from, where an argument needs its logits
            (`decoupling`); another model object than the policy's. None uses the scores alone.
        peft_config: arguments of PEFT's LoraConfig; trains a fresh LoRA adapter instead of all weights, and saves the
            policy with the adapter merged, so that the next round starts from a plain model.
        worst_cases: the follower's first answer by source (or under "all"); None solves it.
        advance: called with 1 after each optimiser step.

    Returns: the trainer's log, one record per logging step, and a last one with the totals.

    Raises:
        InputError: see `build_lora` and `SGPOTrainer`; no pair left that fits `max_length`.
    """
    with tempfile.TemporaryDirectory(prefix="sgpo-leader-", ignore_cleanup_errors=True) as scratch:
        arguments.output_dir = scratch
        lora = None if peft_config is None else build_lora(peft_config)
        with _checking("leader"):
            trainer = SGPOTrainer(
                model=policy.model,
                ref_model=None if reference is None else reference.model,
                args=arguments,
                train_dataset=pairs,
                processing_class=policy.tokenizer,
                callbacks=[_Steps(advance)],
                peft_config=lora,
                worst_cases=worst_cases,
            )
        trainer.remove_callback(PrinterCallback)
        if len(trainer.train_dataset) == 0:
            raise InputError(f"no pair has a prompt shorter than leader.max_length ({arguments.max_length} tokens).")
        trainer.train()
        _save(trainer, policy, output, merge=lora is not None)
        return trainer.state.log_history


def build_lora(settings: Settings) -> Any:
    """PEFT's LoraConfig for a causal language model, from its arguments."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise InputError("leader.lora needs PEFT, which is not installed: pip install 'sgpo[peft]'.") from error
    with _checking("leader.lora", "; allowed: arguments of peft.LoraConfig."):
        return LoraConfig(**{"task_type": "CAUSAL_LM", **settings})


def _save(trainer: SGPOTrainer, policy: Policy, output: Path, *, merge: bool) -> None:
    if not merge:
        trainer.save_model(str(output))
        # Trainer pickles its arguments next to the weights; nothing reads them, and they name a scratch folder.
        (output / "training_args.bin").unlink(missing_ok=True)
    elif trainer.accelerator.is_main_process:
        trainer.accelerator.unwrap_model(trainer.model).merge_and_unload().save_pretrained(output)
        policy.tokenizer.save_pretrained(output)
    # A sharded trainer saves shards, or nothing at all, unless it is configured to gather the weights.
    if trainer.accelerator.is_main_process and not any(output.glob("*.safetensors")):
        raise InputError(
            f"{output} holds no weights after training; allowed: FSDP with fsdp_state_dict_type FULL_STATE_DICT, or "
            "DeepSpeed ZeRO-3 with stage3_gather_16bit_weights_on_model_save true."
        )
