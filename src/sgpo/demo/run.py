"""`sgpo run` on the embedded world: the world first, then the loop with a judge who knows the gold reward."""

import math
from contextlib import closing
from pathlib import Path
from typing import Self

from pydantic import model_validator

from sgpo.config import Recipe, RunConfig
from sgpo.config.world import WorldSettings
from sgpo.demo.sft import count_parameters
from sgpo.demo.world import GoldJudge, prepare_world, world_paths
from sgpo.errors import InputError
from sgpo.plan.preflight import missing_room
from sgpo.plan.run import Plan, check_arguments, expected_lengths, few_pairs, needs, plan_stages, run_size
from sgpo.rounds.costs import StagePlan
from sgpo.rounds.loop import open_run, quiet_libraries, run_rounds
from sgpo.rounds.prompts import round_sizes
from sgpo.store.processes import Processes
from sgpo.store.progress import Reporter
from sgpo.store.run_dir import check_same_config
from sgpo.store.stages import Stages

_SUPPLIED = {"model": ("path", "adapter"), "data": ("seeds", "prompts", "heldout", "seed_pairs")}


class WorldRecipe(Recipe):
    """A run whose model, seeds and prompts come from an embedded world."""

    world: WorldSettings

    @model_validator(mode="after")
    def _the_world_supplies_its_data(self) -> Self:
        for section, keys in _SUPPLIED.items():
            for key in keys:
                if getattr(getattr(self, section), key) is not None:
                    raise ValueError(f"{section}.{key} is given beside a world, which supplies it; leave it out")
        return self


def plan_world(recipe: WorldRecipe) -> Plan:
    """Checks what can be known before the run, and says what it would do; writes nothing.

    Raises:
        InputError: whatever would stop the run later and can be known now.
    """
    stored = Path(recipe.output) / "config.yaml"
    if stored.is_file():
        check_same_config(stored, recipe.model_dump(mode="json"))
    world = recipe.world
    if recipe.generation.max_new_tokens >= world.max_length:
        raise InputError(
            f"generation.max_new_tokens is {recipe.generation.max_new_tokens}; allowed: less than world.max_length "
            f"({world.max_length}), so that a prompt has room."
        )
    check_arguments(recipe)
    parameters = count_parameters(layers=world.layers, hidden=world.hidden, heads=world.heads)
    missing = tuple(missing_room(Path(recipe.output), run_size(recipe, parameters)))
    pools = round_sizes(world.pool_prompts, recipe, "world.pool_prompts")
    sft_steps = math.ceil(world.sft_examples / world.sft_batch_size)
    lengths = expected_lengths(recipe, None)
    stages = [
        StagePlan("world", f"SFT of a small Llama: {sft_steps} steps; {world.test_prompts} test prompts"),
        *plan_stages(recipe, world.seed_pairs, 0, pools, parameters, lengths),
    ]
    described = needs(recipe, parameters, None, lengths)
    return Plan(
        output=recipe.output,
        stages=tuple(stages),
        needs=described,
        notes=tuple(few_pairs(recipe, world.seed_pairs)),
        missing=missing,
    )


def run_world(recipe: WorldRecipe, *, command: list[str], processes: Processes, reporter: Reporter) -> None:
    """Prepares the world of a recipe, then runs its rounds, each judged by the gold reward.

    Raises:
        InputError: see `plan_world` and `RunDir`.
    """
    if missing := plan_world(recipe).missing:
        raise InputError("; ".join(missing) + ".")
    quiet_libraries()
    with closing(open_run(recipe, command, processes)) as run:
        Stages(run, recipe.seed, processes, reporter).alone("world", lambda path: _prepare(recipe, path, reporter))
        paths = world_paths(run.path("world"))
        sections = recipe.model_dump(exclude={"world"})
        config = RunConfig(
            **{
                **sections,
                "model": {**sections["model"], "path": str(paths.sft)},
                "data": {**sections["data"], "seeds": str(paths.seeds), "prompts": str(paths.prompts)},
            }
        )
        judge = GoldJudge(recipe.world, run.path("world"), seed=recipe.seed)
        run_rounds(config, run, evaluate=judge, processes=processes, reporter=reporter)


def _prepare(recipe: WorldRecipe, path: Path, reporter: Reporter) -> None:
    path.mkdir()
    steps = math.ceil(recipe.world.sft_examples / recipe.world.sft_batch_size)
    with reporter.bar("SFT steps", steps) as advance:
        prepare_world(recipe.world, path, seed=recipe.seed, progress=lambda done, total: advance(1))
