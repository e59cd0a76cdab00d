"""Whole runs whose responses come from a real vLLM on the CPU, in a process of its own or as a server."""

import os
import subprocess
import sys

import pytest
import yaml
from datasets import load_from_disk

from integration.conftest import PAIRS, teach_to_stop
from integration.test_served_run import serve_it
from integration.whole_runs import fingerprint
from processes import descendants, runs, wait_until
from real_vllm import OPTIONS, SERVER_COMMAND
from sgpo.cli import main
from sgpo.serving.launch import is_ready
from tiny_model import build_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

# A run that stops at the second shard of responses, while vLLM runs, and says so.
STUCK_IN_A_SHARD = """
import sys, time
from sgpo.cli import main
from sgpo.store.stages import Shards

def write_one(self, index, *rest, write=Shards.write, **options):
    if index:
        print("stuck", flush=True)
        time.sleep(600)
    write(self, index, *rest, **options)

Shards.write = write_one
main(["run", "--config", sys.argv[1], "--quiet"])
"""


@pytest.fixture(scope="module")
def servable_model(tmp_path_factory):
    """The micro model with heads that vLLM can serve."""
    path = build_tiny_model(tmp_path_factory.mktemp("servable") / "model", seed=0, hidden=64)
    teach_to_stop(path, PAIRS)
    return str(path)


@pytest.fixture
def recipe(recipe, servable_model):
    """One round of the micro recipe with that model, in shards of five prompts."""
    content = yaml.safe_load(recipe.read_text())
    content |= {"rounds": 1, "model": {"path": servable_model}}
    content["generation"] |= {"shard_size": 5, "backend": "vllm", "vllm": OPTIONS}
    recipe.write_text(yaml.safe_dump(content))
    return recipe


def test_a_run_killed_while_vllm_generates_ends_with_the_bytes_of_one_that_was_not(recipe):
    whole, interrupted = recipe.parent / "whole", recipe.parent / "run"
    assert main(["run", "--config", str(recipe), "--quiet", f"output={whole}"]) == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", STUCK_IN_A_SHARD, str(recipe)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "stuck\n"
        started = descendants(run.pid)
        assert len(started) >= 2
        run.kill()
    wait_until(lambda: not any(map(runs, started)), seconds=60)
    assert not (interrupted / "round-1/responses").exists()
    assert main(["run", "--config", str(recipe), "--quiet"]) == 0
    assert fingerprint(interrupted) == fingerprint(whole)
    responses = load_from_disk(whole / "round-1/responses").to_list()
    assert len({text for row in responses for text in row["responses"]}) > 18
    assert any("stop" in row["finish_reasons"] for row in responses)


def test_a_round_is_written_by_a_vllm_server_that_is_gone_after_it(recipe):
    url = serve_it(recipe, SERVER_COMMAND, dialect="vllm")
    assert main(["run", "--config", str(recipe), "--quiet"]) == 0
    responses = load_from_disk(recipe.parent / "run/round-1/responses").to_list()
    texts = [text for row in responses for text in row["responses"]]
    assert len(texts) == 36 and len(set(texts)) > 18 and not any("?" in text for text in texts)
    assert not is_ready(url)
