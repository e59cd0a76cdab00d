"""`sgpo train`: `trl dpo` with SGPOTrainer, on any preference dataset that the project reads."""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, load_dataset
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser, get_dataset
from trl import get_peft_config as peft_config_of
from trl import get_quantization_config as quantization_config_of

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.leader.trainer import SGPOTrainer
from sgpo.preferences.layout import to_pairs
from sgpo.preferences.source import load_pairs


def train(argv: Sequence[str]) -> None:
    """Trains one leader from command-line arguments: those of `trl dpo`, and those of SGPOConfig.

    Args:
        argv: arguments; `--config FILE` gives defaults in YAML.

    Raises:
        InputError: an unknown or impossible argument, or a dataset that holds no preference pairs.
        SystemExit: argparse's own errors and `--help`.
    """
    parser = TrlParser((ScriptArguments, SGPOConfig, ModelConfig, DatasetMixtureConfig), prog="sgpo train")
    try:
        script, arguments, model, mixture = parser.parse_args_and_config(list(argv))
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
    arguments.model_init_kwargs = {
        "revision": model.model_revision,
        "trust_remote_code": arguments.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(arguments.model_init_kwargs or {}),
    }
    train_dataset, eval_dataset = _load_datasets(script, arguments, mixture)
    if not model.model_name_or_path:
        raise InputError("--model_name_or_path is missing; allowed: a folder or a Hub id.")
    try:
        trainer = SGPOTrainer(
            model=model.model_name_or_path,
            args=arguments,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            quantization_config=quantization_config_of(model),
            peft_config=peft_config_of(model),
        )
    except OSError as error:
        raise InputError(f"--model_name_or_path {model.model_name_or_path}: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise InputError(str(error)) from error
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model(arguments.output_dir)
    trainer.accelerator.print(f"Model saved to {arguments.output_dir}")
    if arguments.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
    trainer.end()


def _load_datasets(
    script: ScriptArguments, arguments: SGPOConfig, mixture: DatasetMixtureConfig
) -> tuple[Dataset, Dataset | None]:
    if bool(mixture.datasets) == bool(script.dataset_name):
        raise InputError("dataset_name and datasets: exactly one of them must be given.")
    wants_eval = arguments.eval_strategy != "no"
    if mixture.datasets:
        splits = get_dataset(mixture)
        return splits[script.dataset_train_split], splits[script.dataset_test_split] if wants_eval else None
    if script.dataset_streaming:
        raise InputError(
            "dataset_streaming is True; allowed: False, because the follower needs the gaps of every pair."
        )
    eval_dataset = _load_split(script, script.dataset_test_split) if wants_eval else None
    return _load_split(script, script.dataset_train_split), eval_dataset


def _load_split(script: ScriptArguments, split: str) -> Dataset:
    if Path(script.dataset_name).is_file():
        if split != "train" or script.dataset_config:
            raise InputError(f"{script.dataset_name} is one file; it has no split {split!r} and no dataset_config.")
        return load_pairs(script.dataset_name)
    if script.dataset_config is None:
        return load_pairs(script.dataset_name, split=split)
    rows = load_dataset(script.dataset_name, script.dataset_config, split=split)
    return to_pairs(rows, f"{script.dataset_name} ({script.dataset_config}, {split})")
