"""What a run would do, stage by stage, and what that costs."""

import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table

from sgpo.config import Recipe, RunConfig
from sgpo.leader.train import build_arguments
from sgpo.plan.preflight import Preflight, missing_room
from sgpo.plan.tools import missing_tools
from sgpo.rounds.costs import (
    BYTES,
    Architecture,
    Lengths,
    StagePlan,
    activation_bytes,
    generation_flops,
    hours,
    scoring_flops,
    state_bytes,
    training_flops,
)
from sgpo.rounds.data import plan_data
from sgpo.rounds.evaluations import check_evaluations
from sgpo.rounds.training import leader_settings
from sgpo.stats.acceptance import ENOUGH_PAIRS
from sgpo.store.run_dir import check_same_config

_GIB = 2**30
# Taken where the prompts cannot be read, and for responses, which nobody has seen yet (a share of max_new_tokens).
_PROMPT_TOKENS, _RESPONSE_SHARE = 200, 0.8


@dataclass(frozen=True)
class Plan:
    """The stages of a run and what they need; prints itself through rich.

    Attributes:
        output: the run directory.
        stages: in order.
        needs: sentences on model, memory, disk and time.
        notes: what a user should know, and what could not be checked.
        missing: what this machine lacks, and a run would stop at.
    """

    output: str
    stages: tuple[StagePlan, ...]
    needs: tuple[str, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __rich__(self) -> Group:
        timed = any(stage.hours is not None for stage in self.stages)
        table = Table("stage", "work", title=f"Plan of {self.output}", title_justify="left")
        if timed:
            table.add_column("hours", justify="right")
        for stage in self.stages:
            duration = "" if stage.hours is None else f"{stage.hours:,.1f}"
            table.add_row(stage.name, stage.work, *([duration] if timed else []))
        return Group(
            table,
            *self.needs,
            *(f"[yellow]Note:[/yellow] {note}" for note in self.notes),
            *(f"[red]Missing here:[/red] {what}." for what in self.missing),
        )


def plan_run(config: RunConfig, *, offline: bool = False, processes: int = 1) -> Plan:
    """Checks a recipe against its files, model and disk, and says what the run would do.

    Writes nothing and loads no weights.

    Args:
        config: the recipe.
        offline: see `Preflight`.
        processes: that will share the run.

    Raises:
        InputError: whatever would stop the run later and can be known now.
    """
    stored = Path(config.output) / "config.yaml"
    if stored.is_file():
        check_same_config(stored, config.model_dump(mode="json"))
    inputs = Preflight(config, offline=offline).inspect()
    check_arguments(config, processes)
    if config.data.split is None and config.world is None:
        # Otherwise an evaluation may name a file that is not written yet; the run checks it then.
        check_evaluations(config)
    lengths = expected_lengths(config, inputs.prompt_tokens)
    unchecked = [f"not checked: {what}." for what in inputs.unchecked]
    notes = (*inputs.warnings, *few_pairs(config, inputs.seeds), *unchecked)
    return Plan(
        output=config.output,
        stages=tuple(plan_stages(config, inputs.seeds, inputs.heldout, inputs.pools, inputs.parameters, lengths)),
        needs=needs(config, inputs.parameters, inputs.architecture, lengths),
        notes=notes,
        missing=(*missing_tools(config), *missing_room(Path(config.output), run_size(config, inputs.parameters))),
    )


def check_arguments(config: Recipe, processes: int = 1) -> None:
    """Raises InputError for what the leader's own config refuses, and for a batch that the processes do not divide."""
    follower = config.follower
    radii = [follower.radius] if not isinstance(follower.radius, str) else follower.radius_grid
    for number in range(min(config.rounds, 1) + 1):
        for radius in radii:
            settings = leader_settings(config, number, seed=0, radius=radius, processes=processes)
            build_arguments(settings, config.leader.trainer, output_dir="unused")


def few_pairs(config: Recipe, seeds: int) -> list[str]:
    """A sentence where too few of the seeds are set aside to choose a round by."""
    aside = round(config.validation_share * seeds)
    if not config.chooses_round or aside >= ENOUGH_PAIRS:
        return []
    return [
        f"about {aside} human pairs are set aside to say which round to ship; with fewer than {ENOUGH_PAIRS} a good "
        "round often goes unsupported, and the SFT model is shipped where none is. More seeds or a larger "
        "data.validation_share help; leader.accept: always does without."
    ]


def run_size(config: Recipe, parameters: int) -> int:
    """Bytes of the policies that a run directory keeps: one per round, one for the seeds, one of the last DPO."""
    return (config.rounds + 1 + bool(config.final_epochs)) * parameters * BYTES[config.model.dtype]


def expected_lengths(config: Recipe, prompt_tokens: float | None) -> Lengths:
    """Mean tokens that the estimates count with."""
    response = _RESPONSE_SHARE * config.generation.max_new_tokens
    return Lengths(_PROMPT_TOKENS if prompt_tokens is None else prompt_tokens, response)


def needs(config: Recipe, parameters: int, architecture: Architecture | None, lengths: Lengths) -> tuple[str, ...]:
    """Sentences on what a run needs."""
    dtype, leader, hardware = config.model.dtype, config.leader, config.hardware
    state = state_bytes(parameters, dtype)
    activations = 0
    if architecture is not None:
        activations = activation_bytes(architecture, 2 * leader.micro_batch_size * leader.max_length, dtype)
    beside = f"and {activations / _GIB:,.2f} GiB of activations" if architecture else "without activations"
    trained = "all weights" if leader.lora is None else "all weights; LoRA needs far less"
    sentences = [
        f"Model: {parameters / 1e6:,.1f} M parameters. Training {trained} takes about {state / _GIB:,.2f} GiB "
        f"{beside}; the run directory takes about {run_size(config, parameters) / _GIB:,.2f} GiB."
    ]
    if hardware is None:
        return tuple(sentences)
    share = state / hardware.devices + activations
    fits = "fits" if share <= hardware.memory_gib * _GIB else "does not fit"
    sentences.append(
        f"Sharded over {hardware.devices} devices (FSDP full shard, ZeRO-3) that is {share / _GIB:,.1f} GiB on each, "
        f"which {fits} {hardware.memory_gib:g} GiB. Hours count with {lengths.prompt:.0f} tokens a prompt and "
        f"{lengths.response:.0f} a response."
    )
    return tuple(sentences)


def plan_stages(
    config: RunConfig, seeds: int, heldout: int, pools: list[int], parameters: int, lengths: Lengths
) -> list[StagePlan]:
    """The stages of a run.

    Args:
        config: the recipe.
        seeds, heldout: number of human pairs to train on and to judge by.
        pools: prompts of each round.
        parameters: weights of the model.
        lengths: mean tokens.
    """
    leader = config.leader
    stages = plan_data(config)
    human, aside = seeds, round(config.validation_share * seeds)
    seeds -= aside
    stages += [StagePlan("seed/pairs", f"{seeds} human pairs, scored by the reference")]
    if aside:
        stages.append(StagePlan("validation/pairs", f"{aside} human pairs set aside, about, scored by every round"))
    if heldout:
        stages.append(StagePlan("heldout/pairs", f"{heldout} human pairs to judge by, scored by the reference"))
    training = training_flops(parameters, seeds * leader.seed_epochs, lengths, recomputed=True)
    work = f"DPO on the seeds: {_steps(config, seeds, leader.seed_epochs)} steps"
    stages.append(StagePlan("round-0", work, _hours(config, training, 0.0)))
    for number, pool in enumerate(pools, start=1):
        responses = pool * config.generation.candidates
        pairs = pool + (seeds if config.data.seeds_in_rounds else 0)
        if config.annotation.choice == "all":
            pairs += pool * (math.comb(config.generation.candidates, 2) - 1)
        work = (
            f"{pool} prompts, {responses} responses, scored by policy and reference; "
            f"at most {pairs} pairs; worst case at radius {config.follower.radius} ({config.follower.space}); "
            f"at most {_steps(config, pairs, leader.epochs)} steps"
        )
        passes = 2 * scoring_flops(parameters, responses, lengths)
        passes += training_flops(parameters, pairs * leader.epochs, lengths, recomputed=True)
        writing = generation_flops(parameters, pool, config.generation.candidates, lengths)
        stages.append(StagePlan(f"round-{number}", work, _hours(config, passes, writing)))
    return [*stages, *_plan_end(config, human, parameters, lengths)]


def _plan_end(config: Recipe, human: int, parameters: int, lengths: Lengths) -> list[StagePlan]:
    """What follows the rounds, with so many human pairs."""
    stages = []
    if config.chooses_round:
        stages.append(StagePlan("shipped.json", "the latest round that the pairs set aside support, or the SFT model"))
    if config.final_epochs:
        training = training_flops(parameters, human * config.final_epochs, lengths, recomputed=True)
        steps = _steps(config, human, config.final_epochs)
        work = f"a last DPO on all {human} human pairs, from the round that is shipped: {steps} steps"
        stages.append(StagePlan("final", work, _hours(config, training, 0.0)))
    return stages


def _hours(config: Recipe, passes: float, writing: float) -> float | None:
    hardware = config.hardware
    if hardware is None:
        return None
    peak = {"devices": hardware.devices, "teraflops": hardware.teraflops}
    return hours(passes, **peak, utilisation=hardware.utilisation) + hours(
        writing, **peak, utilisation=hardware.generation_utilisation
    )


def _steps(config: Recipe, pairs: int, epochs: float) -> int:
    return math.ceil(epochs * math.ceil(pairs / config.leader.batch_size))
