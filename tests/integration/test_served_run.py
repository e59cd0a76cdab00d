"""A run whose responses come from a server that it starts itself for the round's policy."""

import sys
from pathlib import Path

import pytest
import yaml
from datasets import load_from_disk

from live_server import free_port
from sgpo.cli import main
from sgpo.serving.launch import is_ready

PROGRAM = Path(sys.executable).with_name("transformers")


def serve_it(recipe, command, dialect="transformers"):
    """Has one round of the micro recipe written by a server; returns its URL."""
    url = f"http://127.0.0.1:{free_port()}/v1"
    content = yaml.safe_load(recipe.read_text())
    content["rounds"] = 1
    content["generation"] |= {
        "backend": "server",
        "servers": [url],
        "server_dialect": dialect,
        "server_command": command,
        "stop": ["?"],
    }
    content["generation"].pop("vllm", None)
    recipe.write_text(yaml.safe_dump(content))
    return url


@pytest.mark.slow
def test_a_round_is_written_by_a_server_that_is_gone_after_it(recipe):
    url = serve_it(recipe, f"{PROGRAM} serve {{policy}} --device cpu --host {{host}} --port {{port}}")
    assert main(["run", "--config", str(recipe), "--quiet"]) == 0
    responses = load_from_disk(recipe.parent / "run/round-1/responses").to_list()
    texts = [response for row in responses for response in row["responses"]]
    assert len(texts) == 36
    assert len(set(texts)) > 18 and not any("?" in text for text in texts)
    assert not is_ready(url)


def test_a_server_that_does_not_start_is_quoted_and_nothing_is_lost(recipe, capsys):
    serve_it(recipe, f"{sys.executable} -c 'raise SystemExit(\"no such device\")' {{policy}}")
    assert main(["run", "--config", str(recipe), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "ended with code 1 before" in said and "no such device" in said
    assert (recipe.parent / "run/round-0/metrics.json").exists()
    assert not (recipe.parent / "run/round-1/responses").exists()
