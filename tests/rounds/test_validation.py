"""Which policy a round ends with, by the human pairs set aside."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sgpo.rounds.policies import Policies
from sgpo.rounds.validation import Validation
from sgpo.store.processes import Processes
from sgpo.store.progress import Reporter
from sgpo.store.run_dir import RunDir
from sgpo.store.stages import Stages

RNG = np.random.default_rng(0)
GOOD = RNG.normal(1.0, 1.0, 200)


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def round_of(tmp_path):
    """Decides a round from gaps before it and after it with each radius; gives the folder of the run."""

    def decide(before, after, radii):
        run = RunDir(tmp_path / "run", {"seed": 0}, [])
        write(run.path("round-0/policy/model.safetensors"), "before")
        write(run.path("round-0/policy/training_log.json"), "[]")
        write(run.path("round-0/validation.json"), json.dumps({"gaps": list(before)}))
        for place, gaps in enumerate(after):
            write(run.path(f"round-1/trials/{place}/policy/model.safetensors"), f"trial {place}")
            write(run.path(f"round-1/trials/{place}/policy/training_log.json"), "[]")
            write(run.path(f"round-1/trials/{place}/validation.json"), json.dumps({"gaps": list(gaps)}))
        config = SimpleNamespace(model=None, rounds=1)
        validation = Validation(config, Stages(run, 0, Processes(), Reporter()), Policies(config, run))
        validation.decide(1, radii)
        validation.clear(1)
        run.close()
        assert not run.path("round-1/trials").exists()
        return run.root, validation.decision(1)

    return decide


def test_a_round_that_loses_the_human_order_leaves_the_policy_as_it_was(round_of):
    root, decision = round_of(GOOD, [-GOOD, -0.5 * GOOD], [0.0, 0.1])
    assert (decision["place"], decision["accepted"]) == (None, False)
    assert (root / "round-1/policy/model.safetensors").read_text() == "before"
    assert not (root / "round-1/policy/training_log.json").exists()
    assert {one["reason"] for one in decision["tried"]} == {"no information"}


def test_of_two_radii_the_one_that_keeps_the_order_is_taken(round_of):
    root, decision = round_of(GOOD, [-GOOD, 3 * GOOD], [0.0, 0.1])
    assert (decision["place"], decision["radius"]) == (1, 0.1)
    assert (root / "round-1/policy/model.safetensors").read_text() == "trial 1"
    assert (root / "round-1/policy/training_log.json").exists()


def test_without_a_difference_the_smallest_radius_is_taken(round_of):
    _, decision = round_of(GOOD, [GOOD + RNG.normal(0, 0.01, 200), GOOD, 2 * GOOD], [0.1, 0.0, 0.05])
    assert decision["radius"] == 0.0


def test_one_radius_is_judged_like_many(round_of):
    root, decision = round_of(GOOD, [-0.01 * GOOD], [0.05])
    assert decision["place"] is None
    assert decision["radius"] == 0.05
    assert (root / "round-1/policy/model.safetensors").read_text() == "before"
