"""The text world in two regimes: the real loop, with a small language model and a gold reward."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgpo.config import RunConfig
from sgpo.config.world import WORLD_EVALUATION
from sgpo.rounds.loop import run_recipe
from sgpo.store.processes import Processes
from sgpo.store.progress import Reporter
from sgpo.store.records import RoundMetrics, Shipped, parse_record
from sgpo_research.runs import OF_ROUND_0, adopt, changed_recipe
from sgpo_research.summary import Row

# The demo's loop in a world with two articles in a request. In the benign regime the gold reward is manners, which
# generalise to new requests; in the derailing one it is the facts of a request, which the model cannot judge, and a
# quarter of the labels are flipped.
BASE: dict[str, Any] = {
    "rounds": 3,
    "world": {"facts": 0.0, "flip_rate": 0.05, "seed_pairs": 400, "pool_prompts": 900, "test_prompts": 600},
    "generation": {"candidates": 4, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 64, "batch_size": 256},
    "leader": {
        "beta": 0.5,
        "learning_rate": 1.5e-4,
        "epochs": 1,
        "seed_learning_rate": 3.0e-4,
        "seed_epochs": 3,
        "batch_size": 16,
        "micro_batch_size": 16,
        "max_length": 160,
    },
}
REGIMES: dict[str, dict[str, Any]] = {
    "benign": {},
    "derailing": {"world.facts": 1.0, "world.flip_rate": 0.25, "leader.learning_rate": 3.0e-4, "leader.epochs": 2},
}
_LAST = {"leader.final_epochs": 3}
METHODS: dict[str, dict[str, Any]] = {
    "iterative DPO": {"follower.radius": 0, "leader.accept": "always", **_LAST},
    "SSAPO, paper": {"follower.radius": 0.01, "leader.accept": "always", **_LAST},
    "SSAPO, supported": {},
    "iterative DPO, supported": {"follower.radius": 0},
    "SSAPO, measured": {"follower.radius": "measured", "leader.accept": "always"},
    "SSAPO, validated": {
        "follower.radius": "validated", "follower.radius_grid": [0.0, 0.05, 0.2], "leader.accept": "validated",
    },
}  # fmt: skip
# These settings were chosen on world seeds 0 to 3, and methods on 1000 to 1002: neither is reported.
FIRST_SEED = 100
# Small enough for CI; its results mean nothing.
_QUICK = {
    "rounds": 1, "world.pool_prompts": 60, "world.seed_pairs": 64, "world.heldout_pairs": 40, "world.test_prompts": 80,
    "world.sft_examples": 960,
}  # fmt: skip
# Stages that all runs in a world share; runs with as many validation pairs share round 0 in addition.
_OF_WORLD = ("world", "heldout/pairs", "evaluations")
_COMMAND = ["sgpo-study", "text-world"]


def text_recipe(regime: str, changes: Mapping[str, Any], *, seed: int, output: Path) -> RunConfig:
    """The recipe of a run: the base, the regime's changes and the method's, as dotted keys."""
    own = {"seed": seed, "output": str(output)}
    return changed_recipe(BASE, own, REGIMES[regime], changes, name=f"{regime}, seed {seed}")


def run_text_world(
    regime: str, methods: Mapping[str, Mapping[str, Any]], *, seed: int, folder: Path, reporter: Reporter | None = None
) -> list[Row]:
    """Runs methods in one world of a regime.

    All methods share the world, and those with as many validation pairs share round 0; each is made once. Each run has
    a directory of its own and resumes there.

    Args:
        regime: of `REGIMES`.
        methods: name to changes of the recipe.
        seed: of world and runs.
        folder: parent of the run directories.
        reporter: where progress is shown.

    Returns: rows: regime, method, round, gold win_rate against the SFT model with low and high, kl (nats), agreement
        (share of the round's pairs whose order gold shares), radius, accepted; in the last round of a method shipped
        (the round whose policy it ships, -1: the SFT model) and shipped_win_rate (gold, of that policy). A run that
        ends with a final DPO on all human pairs is two methods: itself without it, and "NAME, human last", a row of
        the round after the last, which is the SFT model's where that is shipped.
    """
    rows: list[Row] = []
    made: dict[str, Path] = {}
    world: Path | None = None
    for name, changes in methods.items():
        output = folder / f"{regime}-{seed}" / name.replace(" ", "-")
        recipe = text_recipe(regime, changes, seed=seed, output=output)
        # What round 0 depends on.
        key = json.dumps([recipe.validation_share, recipe.leader.trainer], sort_keys=True)
        if not output.exists():
            if key in made:
                adopt(recipe, made[key], (*_OF_WORLD, *OF_ROUND_0), _COMMAND)
            elif world is not None:
                adopt(recipe, world, _OF_WORLD, _COMMAND)
        world = world or output
        run_recipe(recipe, command=_COMMAND, processes=Processes(), reporter=reporter or Reporter())
        made.setdefault(key, output)
        rows += _rows(regime, name, recipe)
    return rows


def text_world_rows(seed: int, quick: bool, folder: Path) -> list[Row]:
    """The methods of `METHODS` in both regimes, in the world of seed 100 + `seed`; rows as `run_text_world`."""
    methods = dict(list(METHODS.items())[:3]) if quick else METHODS
    changes = {name: {**method, **(_QUICK if quick else {})} for name, method in methods.items()}
    return [row for regime in REGIMES for row in run_text_world(regime, changes, seed=FIRST_SEED + seed, folder=folder)]


def _rows(regime: str, method: str, recipe: RunConfig) -> list[Row]:
    path = Path(recipe.output) / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [parse_record(RoundMetrics, json.loads(line), str(path)) for line in lines]
    rows = [_row(regime, method, metrics) for metrics in found[: recipe.rounds + 1]]
    shipped = _shipped(recipe)
    # Against itself the SFT model wins one half.
    rows[-1] |= {"shipped": shipped, "shipped_win_rate": 0.5 if shipped == -1 else rows[shipped]["win_rate"]}
    if recipe.final_epochs:
        last = _row(regime, f"{method}, human last", found[-1])
        last |= {"round": len(rows), "shipped": shipped, "shipped_win_rate": last["win_rate"]}
        if shipped == -1:
            last |= {"win_rate": 0.5, "low": None, "high": None, "kl": 0.0, "shipped_win_rate": 0.5}
        rows.append({**last, "agreement": None, "radius": None, "accepted": None})
    return rows


def _row(regime: str, method: str, metrics: RoundMetrics) -> Row:
    gold = metrics.evaluations[WORLD_EVALUATION]
    return {
        "regime": regime,
        "method": method,
        "round": metrics.round,
        "win_rate": gold.value,
        "low": gold.low,
        "high": gold.high,
        "kl": gold.kl,
        "agreement": gold.agreement,
        "radius": metrics.follower and metrics.follower.radius,
        "accepted": metrics.decision and metrics.decision.accepted,
        "shipped": None,
        "shipped_win_rate": None,
    }


def _shipped(recipe: RunConfig) -> int:
    """The round that a run ships, -1: the SFT model."""
    path = Path(recipe.output) / "shipped.json"
    if not path.exists():
        return recipe.rounds
    decided = Shipped.read(path).round
    return -1 if decided is None else decided
