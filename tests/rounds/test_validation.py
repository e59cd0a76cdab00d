"""Which policy a judged round ends with, by the validation pairs."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import BaseModel

from sgpo.rounds.context import Run
from sgpo.rounds.validation import decide_round
from sgpo.store.processes import Processes
from sgpo.store.progress import Reporter
from sgpo.store.records import Decision
from sgpo.store.run_dir import RunDir
from sgpo.store.stages import Stages

RNG = np.random.default_rng(0)
GOOD = RNG.normal(1.0, 1.0, 200)


class Recipe(BaseModel):
    seed: int = 0


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def round_of(tmp_path):
    """Decides a round from gaps before it and after it with each radius; returns the run's folder and the decision."""

    def decide(before, after, radii):
        directory = RunDir(tmp_path / "run", Recipe(), [])
        write(directory.root / "round-0/policy/model.safetensors", "before")
        write(directory.root / "round-0/policy/training_log.json", "[]")
        write(directory.root / "round-0/validation.json", json.dumps({"gaps": list(before)}))
        for place, gaps in enumerate(after):
            trial = f"round-1/trials/{place}"
            write(directory.root / f"{trial}/worst_case.parquet", f"worst case {place}")
            write(directory.root / f"{trial}/policy/model.safetensors", f"trial {place}")
            write(directory.root / f"{trial}/policy/training_log.json", "[]")
            write(directory.root / f"{trial}/validation.json", json.dumps({"gaps": list(gaps)}))
        config = SimpleNamespace(model=None, rounds=1)
        run = Run(config, Stages(directory, 0, Processes(), Reporter()))
        decide_round(run, 1, radii)
        directory.close()
        return run.root / "round-1", Decision.read(run.root / "round-1/decision.json")

    return decide


def test_a_round_that_loses_the_human_order_leaves_the_policy_as_it_was(round_of):
    folder, decision = round_of(GOOD, [-GOOD, -0.5 * GOOD], [0.0, 0.1])
    assert (decision.place, decision.accepted) == (None, False)
    assert (folder / "policy/model.safetensors").read_text() == "before"
    assert not (folder / "policy/training_log.json").exists()
    assert {one.reason for one in decision.tried} == {"no information"}


def test_of_two_radii_the_one_that_keeps_the_order_is_taken_with_its_worst_case(round_of):
    folder, decision = round_of(GOOD, [-GOOD, 3 * GOOD], [0.0, 0.1])
    assert (decision.place, decision.radius) == (1, 0.1)
    assert (folder / "policy/model.safetensors").read_text() == "trial 1"
    assert (folder / "worst_case.parquet").read_text() == "worst case 1"
    assert (folder / "policy/training_log.json").exists()


def test_without_a_difference_the_smallest_radius_is_taken(round_of):
    folder, decision = round_of(GOOD, [GOOD + RNG.normal(0, 0.01, 200), GOOD, 2 * GOOD], [0.1, 0.0, 0.05])
    assert decision.radius == 0.0
    assert (folder / "worst_case.parquet").read_text() == "worst case 1"


def test_one_radius_is_judged_like_many(round_of):
    folder, decision = round_of(GOOD, [-0.01 * GOOD], [0.05])
    assert decision.place is None
    assert decision.radius == 0.05
    assert (folder / "policy/model.safetensors").read_text() == "before"
    assert (folder / "worst_case.parquet").read_text() == "worst case 0"


def test_one_validation_pair_has_no_standard_error(round_of):
    _, decision = round_of([1.0], [[2.0]], [0.05])
    assert decision.tried[0].standard_error is None
    assert decision.pairs == 1
