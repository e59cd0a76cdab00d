"""Calls in several processes: all are made, and an error ends those that run."""

import time

import pytest

from sgpo_research.jobs import side_by_side


def leave_a_file(folder, name):
    (folder / name).touch()


def fail_or_wait(folder, name):
    """The first call fails once another one runs; the others would take ten minutes."""
    if name == "bad":
        while not (folder / "slow-0").exists():
            time.sleep(0.05)
        raise ValueError("no such model")
    (folder / name).touch()
    time.sleep(600)
    (folder / f"{name}-ended").touch()


def test_every_call_is_made_and_counted(tmp_path):
    counted = []
    side_by_side(2, leave_a_file, [(tmp_path, f"{name}") for name in range(5)], counted.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == list("01234") and counted == [1] * 5


def test_an_error_is_raised_at_once_and_ends_the_calls_that_run(tmp_path):
    start = time.monotonic()
    with pytest.raises(ValueError, match="no such model"):
        side_by_side(2, fail_or_wait, [(tmp_path, name) for name in ("bad", "slow-0", "slow-1", "slow-2")])
    assert time.monotonic() - start < 300
    assert not list(tmp_path.glob("*-ended"))
