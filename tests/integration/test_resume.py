"""A run that is killed at every stage boundary ends with the bytes of one that was not."""

import os
import signal
import subprocess
import sys

import pytest

from integration.whole_runs import fingerprint, recorded_counts

# Four validation pairs choose a round, which is enough to go through all stages; a last DPO follows.
CHOICE = [
    "leader.accept=supported_any_length", "data.validation_share=0.5", "leader.final_epochs=1", "leader.batch_size=2",
]  # fmt: skip
STAGES = [
    "seed/pairs", "validation/pairs", "heldout/pairs", "round-0/policy", "round-0/metrics.json",
    *(stage for number in (1, 2)
      for stage in (*(f"round-{number}/{part}" for part in ("responses", "scores/policy", "scores/reference", "pairs")),
                    f"round-{number - 1}/validation.json",
                    *(f"round-{number}/{part}" for part in ("worst_case.parquet", "policy", "metrics.json")))),
    "round-2/validation.json", "shipped.json", "final/pairs", "final/policy", "final/metrics.json",
]  # fmt: skip

# Forks a run that sends itself SIGKILL as soon as one more stage is in its place, before it can do anything more;
# again and again, until a run has nothing left to do. Forking saves importing the libraries sixteen times.
KILLED_AFTER_EACH_STAGE = (
    f"CHOICE = {CHOICE!r}"
    + """
import os, signal, sys
import sgpo.rounds.loop, sgpo.report.build
from sgpo.cli import main

def replace_and_die(source, target, replace=os.replace):
    replace(source, target)
    stage = os.path.relpath(target, sys.argv[2])
    if stage in sys.argv[3:]:
        print("killed after", stage, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

for attempt in range(len(sys.argv[3:]) + 1):
    child = os.fork()
    if child == 0:
        sgpo.store.files.os.replace = replace_and_die
        os._exit(main(["run", "--config", sys.argv[1], "--quiet", *CHOICE]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print("last exit", status)
"""
)

# A shell has what it starts in the background ignore SIGINT, and so do the tests' own children then.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from sgpo.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run(recipe, *arguments):
    command = [sys.executable, "-m", "sgpo", "run", "--config", str(recipe), "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_sigkill_at_every_stage_boundary_changes_nothing(recipe):
    whole = recipe.parent / "whole"
    result = run(recipe, *CHOICE, f"output={whole}")
    assert result.returncode == 0, result.stderr
    interrupted = recipe.parent / "run"
    command = [sys.executable, "-c", KILLED_AFTER_EACH_STAGE, str(recipe), str(interrupted), *STAGES]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [*(f"killed after {stage}" for stage in STAGES), "last exit 0"], result.stderr
    assert fingerprint(interrupted) == fingerprint(whole)
    assert recorded_counts(interrupted) == recorded_counts(whole)
    assert list(recorded_counts(whole)) == STAGES


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_stage_leaves_a_run_that_goes_on(recipe):
    directory = recipe.parent / "run"
    command = [sys.executable, "-c", INTERRUPTIBLE, "run", "--config", str(recipe)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (directory / "round-0").exists():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "run the same command again to resume after the last finished stage" in errors
    assert "Traceback" not in errors
    assert not list(directory.rglob(".*.partial"))
    before = os.stat(directory / "seed/pairs").st_mtime_ns
    assert run(recipe).returncode == 0
    assert os.stat(directory / "seed/pairs").st_mtime_ns == before
    assert (directory / "round-2/metrics.json").is_file()
