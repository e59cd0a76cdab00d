"""What a run would do, and everything about it that can be checked before it starts."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from rich.console import Group
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from sgpo.config import Recipe, RunConfig
from sgpo.errors import InputError
from sgpo.leader.train import build_arguments
from sgpo.policy.load import load_tokenizer
from sgpo.policy.tokens import tokenize_prompts
from sgpo.preferences.seeds import select_seeds
from sgpo.preferences.source import load_pairs, load_prompts
from sgpo.rounds.prompts import pool_size, round_sizes
from sgpo.rounds.training import leader_settings
from sgpo.run_dir import check_same_config

_GIB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 4}


@dataclass(frozen=True)
class StagePlan:
    """One stage of a run: its name and what it does, with counts."""

    name: str
    work: str


@dataclass(frozen=True)
class Plan:
    """The stages of a run and what they need; prints itself through rich.

    `parameters` counts weights. `memory` and `disk` are bytes: an estimate of the peak of training (weights, gradients
    and Adam's two moments in the model's dtype; activations come on top), and what the run directory will hold.
    """

    output: str
    stages: tuple[StagePlan, ...]
    parameters: int
    memory: int
    disk: int
    warnings: tuple[str, ...] = ()

    def __rich__(self) -> Group:
        table = Table("stage", "work", title=f"Plan of {self.output}", title_justify="left")
        for stage in self.stages:
            table.add_row(stage.name, stage.work)
        needs = (
            f"Model: {self.parameters / 1e6:,.1f} M parameters. Training needs about {self.memory / _GIB:,.2f} GiB "
            f"without activations; the run directory takes about {self.disk / _GIB:,.2f} GiB."
        )
        return Group(table, needs, *(f"[yellow]Note:[/yellow] {warning}" for warning in self.warnings))


def plan_run(config: RunConfig) -> Plan:
    """Checks a recipe against its files, model and disk, and says what the run would do.

    Writes nothing and loads no weights.

    Raises:
        InputError: whatever would stop the run later and can be known now.
    """
    stored = Path(config.output) / "config.yaml"
    if stored.is_file():
        check_same_config(stored, config.model_dump(mode="json"))
    data = config.data
    seeds = load_pairs(data.seeds, split=data.seeds_split)
    if data.seed_pairs is not None:
        seeds = select_seeds(seeds, data.seed_pairs, config.seed)
    heldout = load_pairs(data.heldout, split=data.heldout_split) if data.heldout else None
    pools = _pool_sizes(config)
    for number in range(min(config.rounds, 1) + 1):
        build_arguments(leader_settings(config, number, seed=0), config.leader.trainer, output_dir="unused")
    parameters = _count_parameters(config)
    disk = run_size(config, parameters)
    check_disk(Path(config.output), disk)
    return Plan(
        output=config.output,
        stages=tuple(plan_stages(config, len(seeds), len(heldout or ()), pools)),
        parameters=parameters,
        memory=training_memory(config, parameters),
        disk=disk,
        warnings=tuple(_warnings(seeds, heldout)),
    )


def training_memory(config: Recipe, parameters: int) -> int:
    """Bytes of weights, gradients and Adam's two moments, all in the model's dtype."""
    return 4 * parameters * _BYTES[config.model.dtype]


def run_size(config: Recipe, parameters: int) -> int:
    """Bytes of the policies that a run directory keeps, one per round and one for the seeds."""
    return (config.rounds + 1) * parameters * _BYTES[config.model.dtype]


def _pool_sizes(config: RunConfig) -> list[int]:
    """Prompts of each round, every pool read and checked."""
    data = config.data
    if not config.rounds:
        return []
    if isinstance(data.prompts, str):
        return round_sizes(_read_pool(config, data.prompts), config, f"data.prompts: {data.prompts}")
    return [
        pool_size(_read_pool(config, path), config, number, f"data.prompts: {path}")
        for number, path in enumerate(data.prompts, start=1)
    ]


def _read_pool(config: RunConfig, path: str) -> int:
    pool = load_prompts(path, split=config.data.prompts_split)
    _check_prompt_lengths(config, path, pool)
    return len(pool)


def _check_prompt_lengths(config: RunConfig, path: str, pool: Dataset) -> None:
    tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
    model = _model_config(config).get_text_config()
    context = getattr(model, "max_position_embeddings", None) or math.inf
    room = min(context - config.generation.max_new_tokens, config.leader.max_length - 1)
    for row, ids in enumerate(tokenize_prompts(tokenizer, pool["prompt"][:])):
        if len(ids) > room:
            raise InputError(
                f"data.prompts: {path} row {row}: the prompt has {len(ids)} tokens; allowed: at most "
                f"{room} (the model's context, {context}, less generation.max_new_tokens; and below leader.max_length)."
            )


def _model_config(config: RunConfig) -> AutoConfig:
    try:
        return AutoConfig.from_pretrained(config.model.path, trust_remote_code=config.model.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"model.path: {config.model.path}: no model config can be read: {reason}") from error


def _count_parameters(config: RunConfig) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            _model_config(config), trust_remote_code=config.model.trust_remote_code
        )
    return sum(parameter.numel() for parameter in model.parameters())


def check_disk(output: Path, needed: int) -> None:
    """Raises InputError where a disk has less room than a run needs, in bytes."""
    existing = next(parent for parent in (output.absolute(), *output.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"output: {output} needs about {needed / _GIB:.1f} GiB and {free / _GIB:.1f} GiB are free; allowed: a "
            "disk with enough room, or fewer rounds."
        )


def plan_stages(config: Recipe, seeds: int, heldout: int, pools: list[int]) -> list[StagePlan]:
    """The stages of a run, from the number of its seed pairs, held-out pairs, and prompts in each round."""
    stages = [StagePlan("seed/pairs", f"{seeds} human pairs, scored by the reference")]
    if heldout:
        stages.append(StagePlan("heldout/pairs", f"{heldout} human pairs to judge by, scored by the reference"))
    stages.append(StagePlan("round-0", f"DPO on the seeds: {_steps(config, seeds, config.leader.seed_epochs)} steps"))
    for number, pool in enumerate(pools, start=1):
        pairs = pool + (seeds if config.data.seeds_in_rounds else 0)
        work = (
            f"{pool} prompts, {pool * config.generation.candidates} responses, scored by policy and reference; "
            f"at most {pairs} pairs; worst case at radius {config.follower.radius} ({config.follower.space}); "
            f"at most {_steps(config, pairs, config.leader.epochs)} steps"
        )
        stages.append(StagePlan(f"round-{number}", work))
    return stages


def _steps(config: Recipe, pairs: int, epochs: float) -> int:
    return math.ceil(epochs * math.ceil(pairs / config.leader.batch_size))


def _warnings(seeds: Dataset, heldout: Dataset | None) -> list[str]:
    if heldout is None:
        return []
    shared = {str(prompt) for prompt in seeds["prompt"]} & {str(prompt) for prompt in heldout["prompt"]}
    if not shared:
        return []
    return [f"{len(shared)} prompts of data.heldout are among the seeds; held-out accuracy will flatter the policy."]
