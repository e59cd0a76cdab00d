"""`sgpo train`: `trl dpo` with SGPOTrainer, on every preference dataset that sgpo reads."""

import os
import re
import subprocess
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from accelerate.commands.launch import launch_command_parser
from datasets import Dataset, load_dataset
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser, get_dataset
from trl import get_peft_config as peft_config_of
from trl import get_quantization_config as quantization_config_of
from trl.cli.accelerate_config import resolve_accelerate_config_argument

from sgpo.config.read import read_recipe
from sgpo.config.section import setting
from sgpo.errors import InputError, naming_rows
from sgpo.leader.config import SGPOConfig
from sgpo.leader.pairs import ROW
from sgpo.leader.scores import FINGERPRINT_COLUMN, POLICY_COLUMNS, REFERENCE_COLUMNS
from sgpo.leader.train import without_trl_warnings
from sgpo.leader.trainer import SGPOTrainer
from sgpo.policy.chat import inspect_chat
from sgpo.policy.gguf import GGUFFile
from sgpo.policy.load import Policy, check_rows, check_vocabulary
from sgpo.policy.tokens import dated
from sgpo.preferences.columns import read_columns, without_empty
from sgpo.preferences.layout import OTHER_PROMPTS, PAIR_FEATURES, UNSUPPORTED, to_pairs
from sgpo.preferences.source import load_rows
from sgpo.store.files import name_row
from sgpo.store.processes import disconnect

_EPILOG = "Arguments of accelerate launch, such as --num_processes 4 or --accelerate_config fsdp2, are accepted too."
# Set in the processes of a launch, which read the launcher's arguments in a --config file a second time.
_LAUNCHED = "SGPO_TRAIN_LAUNCHED"
_USED = (*PAIR_FEATURES, *UNSUPPORTED, "weight", "source", *POLICY_COLUMNS, *REFERENCE_COLUMNS, FINGERPRINT_COLUMN)


@dataclass
class _Data(ScriptArguments, DatasetMixtureConfig):
    """The datasets, parsed before the trainer's arguments: whoever names none gets to know that first."""

    gguf_file: str | None = setting(None, "Name of a GGUF file in the model's folder or repository; converted once.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.datasets) == bool(self.dataset_name):
            raise InputError("--dataset_name and datasets (in a --config file): exactly one of them must be given.")


@without_trl_warnings()
def train(argv: Sequence[str]) -> int:
    """Trains from command-line arguments: those of `trl dpo`, of SGPOConfig, and of `accelerate launch`.

    `--config FILE` gives defaults in YAML. With arguments of `accelerate launch`, such as `--num_processes 2` or
    `--accelerate_config fsdp2`, the training is launched, else it runs in this process. Returns the exit code.
    """
    # On errors, the usage would list some 200 arguments.
    parser = TrlParser((_Data, SGPOConfig, ModelConfig), prog="sgpo train", epilog=_EPILOG, exit_on_error=False)
    if "--config" in argv:
        if argv[-1] == "--config":
            raise InputError("--config needs a file.")
        # TRL explains neither a file that is missing nor one that is not YAML.
        read_recipe(argv[argv.index("--config") + 1], [])
    try:
        *settings, in_file, in_line = parser.parse_args_and_config(
            list(argv), return_remaining_strings=True, separate_remaining_strings=True
        )
    except (ValueError, OSError, ArgumentError) as error:
        raise InputError(str(error)) from error
    if in_line or (in_file and _LAUNCHED not in os.environ):
        return launch(in_file + in_line, _without(argv, in_line))
    with dated(datetime.now()):
        _train(*settings)
    disconnect()
    return 0


def launch(launcher: list[str], arguments: list[str]) -> int:
    """Runs the same command in processes of `accelerate launch`, and returns its exit code."""
    try:
        launcher = resolve_accelerate_config_argument(launcher)
    except ValueError as error:
        raise InputError(str(error)) from error
    script = ["-m", "sgpo", "train", *arguments]
    _, unknown = launch_command_parser().parse_known_args([*launcher, *script])
    if unknown or "LOCAL_RANK" in os.environ:
        raise InputError(
            f"{' '.join(unknown or launcher)}: unknown argument; see sgpo train --help. Arguments of accelerate launch "
            "are accepted unless a launcher has already started this process."
        )
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, *script]
    return subprocess.run(command, env={**os.environ, _LAUNCHED: "1"}).returncode


def _without(argv: Sequence[str], removed: list[str]) -> list[str]:
    """Arguments without a subsequence of them."""
    rest = list(removed)
    return [argument for argument in argv if not (rest and argument == rest[0] and [rest.pop(0)])]


def _train(script: _Data, arguments: SGPOConfig, model: ModelConfig) -> None:
    arguments.model_init_kwargs = {
        "revision": model.model_revision,
        "trust_remote_code": arguments.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(arguments.model_init_kwargs or {}),
    }
    names, datasets = _load_datasets(script, arguments)
    if not model.model_name_or_path:
        raise InputError("--model_name_or_path is missing; allowed: a folder or a Hub id.")
    path = model.model_name_or_path
    if script.gguf_file:
        path = str(GGUFFile(path, script.gguf_file, model.dtype or "auto", model.model_revision).cached())
    try:
        trainer = SGPOTrainer(
            model=path,
            args=arguments,
            train_dataset=datasets["train"],
            eval_dataset=datasets.get("eval"),
            quantization_config=quantization_config_of(model),
            peft_config=peft_config_of(model),
        )
    except OSError as error:
        raise InputError(f"--model_name_or_path {model.model_name_or_path}: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        # The trainer does not know the files.
        row = re.match(r"(train|eval)[ _]dataset row (\d+)", said := str(error))
        raise InputError(name_row(names[row[1]], int(row[2])) + said[row.end() :] if row else said) from error
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    policy = Policy(trainer.model, tokenizer, model.model_name_or_path)
    for which in names if check_vocabulary(policy) else ():
        rows = getattr(trainer, f"{which}_dataset")
        with naming_rows(lambda row, which=which, rows=rows: name_row(names[which], rows[row][ROW])):
            for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
                check_rows(policy, rows[column][:])
    for note in inspect_chat(policy, generates=False) if tokenizer.chat_template else ():
        trainer.accelerator.print(f"Note: {note}")
    if script.ignore_bias_buffers:
        # Keeps DistributedDataParallel from synchronising boolean buffers, as TRL's script does.
        names = [name for name, buffer in trainer.model.named_buffers() if buffer.dtype == torch.bool]
        trainer.model._ddp_params_and_buffers_to_ignore = names
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model(arguments.output_dir)
    trainer.accelerator.print(f"Model saved to {arguments.output_dir}")
    if arguments.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
    trainer.end()


def _load_datasets(script: _Data, arguments: SGPOConfig) -> tuple[dict[str, str], dict[str, Dataset]]:
    """The names and the rows of "train", and of "eval" if it is used."""
    splits = {"train": script.dataset_train_split}
    if arguments.eval_strategy != "no":
        splits["eval"] = script.dataset_test_split
    names = {which: _name_split(script, split) for which, split in splits.items()}
    if not script.datasets:
        return names, {which: _load_split(script, split) for which, split in splits.items()}
    mixture = get_dataset(script)
    if missing := set(splits.values()) - set(mixture):
        raise InputError(f"datasets has no split {missing.pop()!r}; allowed: {', '.join(mixture)}, or test_split_size.")
    return names, {which: mixture[split] for which, split in splits.items()}


def _name_split(script: _Data, split: str) -> str:
    name = script.dataset_name or "datasets"
    return name if Path(name).is_file() else f"{name} ({', '.join(filter(None, (script.dataset_config, split)))})"


def _load_split(script: _Data, split: str) -> Dataset:
    name, config = script.dataset_name, script.dataset_config
    if script.dataset_streaming:
        raise InputError(
            "dataset_streaming is True; allowed: False, because the follower needs the gaps of every pair."
        )
    if Path(name).is_file() and (split != "train" or config):
        raise InputError(f"{name} is one file; it has no split {split!r} and no dataset_config.")
    if config is not None:
        return as_trl_reads(load_dataset(name, config, split=split), _name_split(script, split))
    return as_trl_reads(load_rows(name, split=None if Path(name).is_file() else split), _name_split(script, split))


def as_trl_reads(dataset: Dataset, name: str) -> Dataset:
    """The columns of a dataset that the trainer uses, so that it tokenizes them as `trl dpo` does.

    Rows of texts, or of messages, stay as they are: TRL applies the chat template to messages only, with the `tools`
    and `chat_template_kwargs` of the row. All else goes through `to_pairs`, or is refused.
    """
    kind = _trl_layout(dataset, name)
    dataset = to_pairs(dataset, name) if kind is None else without_empty(dataset, UNSUPPORTED[:2], name, "text only")
    allowed = "messages, because TRL applies no chat template to texts" if kind is str else None
    dataset = without_empty(dataset, UNSUPPORTED[2:], name, allowed)
    kwargs = dataset["chat_template_kwargs"][:] if "chat_template_kwargs" in dataset.column_names else []
    if None in kwargs:
        raise InputError(f"{name_row(name, kwargs.index(None))}: chat_template_kwargs is null; allowed: an object.")
    return dataset.select_columns([column for column in dataset.column_names if column in _USED])


def _trl_layout(dataset: Dataset, name: str) -> type | None:
    """`str` or `list`, if TRL can train on every row as texts or as messages, and would learn; None if not."""
    columns = [column for column in PAIR_FEATURES if column in dataset.column_names]
    # TRL would not look for a prompt in other columns.
    if columns[-2:] != ["chosen", "rejected"] or (len(columns) == 2 and {*OTHER_PROMPTS} & {*dataset.column_names}):
        return None
    kinds = set(map(_kind, read_columns(dataset, columns, name)))
    return kinds.pop() if len(kinds) == 1 else None


def _kind(row: dict[str, Any]) -> type | None:
    if row["chosen"] == row["rejected"]:
        return None
    if all(isinstance(value, str) for value in row.values()):
        return str
    turns = [turn for value in row.values() for turn in (value if isinstance(value, list) and value else [None])]
    if not all(isinstance(turn, dict) and turn.get("role") for turn in turns):
        return None
    # TRL would train on a prompt twice that the responses repeat.
    prompt = row.get("prompt")
    return None if prompt and prompt == row["chosen"][: len(prompt)] else list
