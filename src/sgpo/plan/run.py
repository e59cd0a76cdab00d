"""What a run would do, stage by stage, and what that costs."""

import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from sgpo.config import HardwareConfig, RunConfig
from sgpo.config.world import WORLD_EVALUATION
from sgpo.errors import InputError
from sgpo.leader.train import build_lora
from sgpo.plan.cpu import measure_cpu, peak_bytes
from sgpo.plan.preflight import Inputs, inspect_inputs
from sgpo.policy.generators import check_servers
from sgpo.policy.tokens import dated
from sgpo.preferences.annotators.open import open_annotator
from sgpo.rounds.costs import BYTES, RESPONSE_SHARE, Scale, StagePlan, activation_bytes, state_bytes
from sgpo.rounds.data import BASE
from sgpo.rounds.evaluations import check_evaluations
from sgpo.rounds.loop import plan_rounds
from sgpo.rounds.training import leader_arguments
from sgpo.stats.acceptance import describe_few
from sgpo.store.progress import hide_other_bars
from sgpo.store.run_dir import check_same_config, start_of

_GIB = 2**30
# Used if the prompts cannot be read.
_PROMPT_TOKENS = 200
_HAS_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


@dataclass(frozen=True)
class Plan:
    """The stages of a run, and sentences on what it needs, what a user should know, and what this machine lacks."""

    output: str
    stages: tuple[StagePlan, ...]
    needs: tuple[str, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def check_nothing_missing(self) -> None:
        """Raises InputError if the run would stop at something that is missing."""
        if self.missing:
            raise InputError("\n".join(f"{what}." for what in self.missing))

    def __rich__(self) -> Group:
        timed = any(stage.hours is not None for stage in self.stages)
        table = Table("stage", "work", title=f"Plan of {escape(self.output)}", title_justify="left")
        if timed:
            table.add_column("hours", justify="right")
        for stage in self.stages:
            duration = "" if stage.hours is None else f"{stage.hours:,.2f}"
            table.add_row(stage.name, escape(stage.work), *([duration] if timed else []))
        return Group(table, *self.needs, *self.shown_notes)

    @property
    def shown_notes(self) -> list[str]:
        """The notes in the markup of rich."""
        return [f"[yellow]Note:[/yellow] {escape(note)}" for note in self.notes]


def plan_run(config: RunConfig, *, offline: bool = False, processes: int = 1, dry_run: bool = False) -> Plan:
    """Checks a recipe against its files, model and disk, and lists what the run would do.

    Writes nothing and loads no weights; raises InputError for whatever would stop the run later and can be known now. A
    dry run may go without the Hub, and measures this machine's speed if the run would use its CPU.
    """
    output, base = Path(config.output), Path(config.output, BASE)
    check_same_config(output, config)
    hide_other_bars()
    with dated(start_of(output)):
        # The file from which a run has its base may be gone.
        here = config.model_copy(update={"model": config.model.at(base)}) if base.is_dir() else config
        inputs = inspect_inputs(here, offline=offline and dry_run)
        check_arguments(config, processes)
        evaluated = {WORLD_EVALUATION: config.world.test_prompts} if config.world else {}
        if config.data.split is None and config.world is None:
            # Otherwise an evaluation may name a file that is not written yet; the run checks it then.
            evaluated = check_evaluations(here)
    scale = scale_of(config, inputs, evaluated)
    unchecked, cpu = [f"not checked: {what}." for what in inputs.unchecked], None
    if dry_run and config.hardware is None and inputs.architecture is not None and not torch.cuda.is_available():
        cpu = measure_cpu(inputs.architecture, config.model.dtype, processes)
    stages = tuple(plan_rounds(config.model_copy(update={"hardware": cpu or config.hardware}), scale))
    return Plan(
        output=config.output,
        stages=stages,
        needs=tuple(needs(config, inputs, scale, stages, cpu)),
        notes=(*inputs.warnings, *few_pairs(config, scale), *unchecked),
        missing=(*missing_tools(config), *missing_room(output, run_size(config, inputs.parameters))),
    )


def check_arguments(config: RunConfig, processes: int = 1) -> None:
    """Raises InputError for what SGPOConfig refuses, and for a batch that the processes do not divide."""
    radius = config.follower.radius
    for number in range(min(config.rounds, 1) + 1):
        for each in config.follower.radius_grid if isinstance(radius, str) else [radius]:
            leader_arguments(config, number, each, processes=processes)


def scale_of(config: RunConfig, inputs: Inputs, evaluated: dict[str, int]) -> Scale:
    """What the stages of the run depend on."""
    validation = round(config.validation_share * inputs.human)
    prompt = _PROMPT_TOKENS if inputs.prompt_tokens is None else inputs.prompt_tokens
    response = RESPONSE_SHARE * config.generation.max_new_tokens
    return Scale(
        parameters=inputs.parameters,
        seeds=inputs.human - validation,
        validation=validation,
        heldout=inputs.heldout,
        pools=inputs.pools,
        prompt_tokens=prompt,
        response_tokens=response,
        human_tokens=prompt + response if inputs.human_tokens is None else inputs.human_tokens,
        evaluated=evaluated,
    )


def few_pairs(config: RunConfig, scale: Scale) -> list[str]:
    """A sentence if there are too few validation pairs to choose a round by."""
    few = describe_few(scale.validation)
    if not config.chooses_round or not few:
        return []
    return [
        f"about {scale.validation} validation pairs choose the round to ship; {few}, and without a supported round the "
        "SFT model is shipped. More seeds or a larger data.validation_share help; leader.accept: always needs no "
        "validation pairs."
    ]


def run_size(config: RunConfig, parameters: int) -> int:
    """Bytes of the policies in a run directory: one per round, for the seeds, of the last DPO, of a GGUF file."""
    policies = config.rounds + 1 + bool(config.final_epochs) + bool(config.model.gguf_file)
    return policies * parameters * BYTES[config.model.dtype if config.leader.lora else "float32"]


def missing_tools(config: RunConfig) -> list[str]:
    """What a run lacks on this machine, a sentence each; InputError if something that the recipe names is not there."""
    generation, annotation, missing = config.generation, config.annotation, []
    if (generation.servers or annotation.servers) and not find_spec("openai"):
        missing.append("servers need the openai package: pip install 'sgpo[server]'")
    else:
        check_servers(generation)
        if annotation.servers or annotation.function:
            open_annotator(annotation)
    if generation.backend == "vllm":
        python = str(generation.vllm.python or sys.executable)
        try:
            found = subprocess.run([python, "-c", _HAS_VLLM], capture_output=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"generation.vllm.python: {python!r} cannot be started: {error}.") from error
        if found.returncode:
            missing.append(
                f"generation.backend is 'vllm', and {python} has no vLLM: install it into an environment of its own, "
                "and set generation.vllm.python to its interpreter"
            )
    if config.leader.lora is not None:
        if find_spec("peft"):
            build_lora(config.leader.lora)
        else:
            missing.append("leader.lora needs PEFT: pip install 'sgpo[peft]'")
    return missing


def missing_room(output: Path, needed: int) -> list[str]:
    """A sentence if a disk has less room than a run needs, in bytes, in addition to the weights it has written."""
    existing = next(parent for parent in (output.absolute(), *output.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    needed -= sum(file.stat().st_size for place in ("*/policy", BASE) for file in output.glob(f"{place}/*.safetensors"))
    if needed <= free:
        return []
    return [
        f"output: {output} needs about {needed / _GIB:.3g} GiB and {free / _GIB:.3g} GiB are free; allowed: a disk "
        "with enough room, or fewer rounds"
    ]


def needs(
    config: RunConfig, inputs: Inputs, scale: Scale, stages: tuple[StagePlan, ...], cpu: HardwareConfig | None
) -> list[str]:
    """Sentences on what a run needs, on the devices that the recipe describes or on this machine's processors."""
    dtype, leader, hardware = config.model.dtype, config.leader, cpu or config.hardware
    # What is trained has 32 bits, but for the base of an adapter.
    state, activations, more = state_bytes(inputs.parameters, "float32"), 0, "without activations"
    if inputs.architecture is not None and cpu is None:
        activations = activation_bytes(inputs.architecture, 2 * leader.micro_batch_size * leader.max_length, dtype)
        more = f"and {activations / _GIB:,.2f} GiB of activations"
    trained = "all weights" if leader.lora is None else "all weights (LoRA needs far less)"
    model = (
        f"Model: {inputs.parameters / 1e6:,.1f} M parameters. Training {trained} takes about {state / _GIB:,.2f} GiB "
        f"{more}; the run directory takes about {run_size(config, inputs.parameters) / _GIB:,.2f} GiB."
    )
    if hardware is None:
        return [model]
    share = state / hardware.devices + activations
    where = f"Sharded over {hardware.devices} devices (FSDP full shard, ZeRO-3) that is {share / _GIB:,.1f} GiB on each"
    if cpu is not None:
        peak = peak_bytes(config, inputs, scale)
        what, share = max(peak.items(), key=lambda item: item[1])
        minutes, threads = 60 * sum(stage.hours or 0 for stage in stages), cpu.devices * torch.get_num_threads()
        where = (
            f"About {math.ceil(minutes):,} min for the stages with hours, on this machine's {threads} threads "
            f"(measured {cpu.devices * cpu.teraflops * 1000:,.0f} GFLOPS) if nothing else runs; peak memory about "
            f"{share / _GIB:,.1f} GiB{' in each process' * (cpu.devices > 1)}, in {what}"
        )
    fits = "fits" if share <= hardware.memory_gib * _GIB else "does not fit"
    counted = (
        f"Hours assume {scale.prompt_tokens:.0f} tokens per prompt, {scale.response_tokens:.0f} per response "
        f"({RESPONSE_SHARE:.0%} of generation.max_new_tokens, written on the same hardware) and "
        f"{scale.human_tokens:.0f} per human prompt with a response, and a pair from every prompt."
    )
    return [model, f"{where}, which {fits} {hardware.memory_gib:.3g} GiB. {counted}"]
