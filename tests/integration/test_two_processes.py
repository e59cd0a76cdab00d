"""A run on two processes, as `accelerate launch` starts them: the same data, and one message when it fails."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import yaml
from datasets import load_from_disk

from sgpo.cli import main

AFTER_ROUND_0 = ("metrics.jsonl", "shipped.json", "report.html")


# A command, which must not leave threads of gloo behind: they can abort a process that has done its work.
ALONE = """
import sys
from pathlib import Path
from sgpo.cli import main
code = main(sys.argv[1:])
left = [name for task in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := task.read_text())]
sys.exit(f"left behind: {left}" if code == 0 and left else code)
"""


def launch(tmp_path, *arguments):
    """A command in two processes, on the CPU; ended with an error if they hang."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    (tmp_path / "alone.py").write_text(ALONE)
    command += [str(tmp_path / "alone.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)


def rows(run, stage):
    return load_from_disk(run / stage).to_list()


@pytest.mark.slow
def test_two_processes_make_the_data_of_one_and_train_on_it(recipe):
    settings = [
        "rounds=1", "generation.shard_size=5", "leader.accept=supported_any_length", "data.validation_share=0.5",
        "leader.batch_size=2", "leader.micro_batch_size=1", "leader.final_epochs=1",
    ]  # fmt: skip
    one, two = recipe.parent / "run", recipe.parent / "two"
    assert main(["run", "--config", str(recipe), "--quiet", *settings]) == 0
    # The same policy to start from: two processes sum gradients in another order.
    shutil.copytree(one, two, ignore=shutil.ignore_patterns("round-1", "final", *AFTER_ROUND_0))
    config = yaml.safe_load((two / "config.yaml").read_text())
    (two / "config.yaml").write_text(yaml.safe_dump({**config, "output": str(two)}))
    result = launch(recipe.parent, "run", "--config", str(recipe), "--quiet", *settings, f"output={two}")
    assert result.returncode == 0, result.stderr
    for stage in ("responses", "scores/policy", "scores/reference", "pairs"):
        assert rows(two, f"round-1/{stage}") == rows(one, f"round-1/{stage}"), stage
    for part in ("responses/about.json", "pairs/annotation.json"):
        assert json.loads((two / "round-1" / part).read_text()) == json.loads((one / "round-1" / part).read_text())
    # The same pairs meet in the same steps, and their gradients differ by rounding.
    ours, theirs = (json.loads((run / "round-1/policy/training_log.json").read_text()) for run in (two, one))
    for key in ("loss", "grad_norm", "logps/chosen", "rewards/margins"):
        assert [step[key] for step in ours[:-1]] == pytest.approx([step[key] for step in theirs[:-1]], rel=1e-3), key
    ours, theirs = (json.loads((run / "round-1/metrics.json").read_text()) for run in (two, one))
    assert ours["follower"] == theirs["follower"]
    assert ours["annotation"] == theirs["annotation"]
    ours, theirs = (json.loads((run / "shipped.json").read_text()) for run in (two, one))
    assert ours["round"] == theirs["round"] == 1
    assert rows(two, "final/pairs") == rows(one, "final/pairs")
    ours, theirs = (json.loads((run / "final/metrics.json").read_text())["heldout"] for run in (two, one))
    assert ours == theirs
    assert (two / "report.html").is_file()
    assert not list(two.rglob(".*.shards"))


def messages(result):
    """What the run itself reports, without the launcher's account of which process failed."""
    return [line for line in result.stderr.splitlines() if line.startswith("sgpo run:")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        # Found before anything starts, by either process; and in the middle, by the main one while the other waits.
        (["leader.micro_batch_size=4"], "leader.batch_size is 4; allowed: a multiple of leader.micro_batch_size times"),
        (["generation.max_new_tokens=1", "rounds=1"], "round 1: no pair left"),
    ],
)
def test_what_goes_wrong_under_two_processes_is_said_once_and_nobody_hangs(recipe, overrides, said):
    result = launch(recipe.parent, "run", "--config", str(recipe), "--quiet", *overrides)
    assert result.returncode != 0
    assert len(messages(result)) == 1, result.stderr
    assert said in messages(result)[0]
    assert "[rank1]: Traceback" not in result.stderr
    assert not list(recipe.parent.rglob(".*.partial"))


@pytest.mark.slow
def test_a_training_leaves_no_communication_behind(tmp_path, recipe, micro_model):
    arguments = ["--model_name_or_path", micro_model, "--dataset_name", str(tmp_path / "seeds.jsonl"), "--use_cpu"]
    arguments += ["--output_dir", str(tmp_path / "out"), "--max_steps", "1", "--report_to", "none", "--bf16", "false"]
    result = launch(tmp_path, "train", *arguments, "--dtype", "float32", "--save_strategy", "no")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
