"""The shipped recipes: their settings, and that they are planned without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sgpo.config import RunConfig, read_recipe, validate

RECIPES = Path(__file__).parents[1] / "recipes"
LARGE = ("mistral-7b", "llama-3-8b")


def recipe_of(name):
    path = RECIPES / f"{name}.yaml"
    return validate(RunConfig, read_recipe(path, []), path.name)


def test_the_papers_recipes_have_the_papers_settings():
    """arXiv:2502.18099, Section 4."""
    for name in LARGE:
        recipe, mistral = recipe_of(name), name.startswith("mistral")
        leader, follower, generation = recipe.leader, recipe.follower, recipe.generation
        found = (recipe.data.split.seeds, recipe.data.split.pools, recipe.rounds)
        assert found == (2000, [8000, 20000, 30000][: recipe.rounds], 3 if mistral else 2), name
        found = (leader.learning_rate, leader.beta, leader.seed_epochs)
        assert found == ((5e-7, 0.1, 3) if mistral else (1e-6, 0.05, 1)), name
        assert (follower.radius, follower.space, follower.tangents) == (0.01, "probability", 6), name
        assert (follower.solver, follower.group_size) == ("slsqp", 100), name
        assert (generation.candidates, generation.temperature, generation.max_new_tokens) == (2, 0.7, 300), name
        assert (recipe.annotation.annotator, recipe.annotation.choice) == ("implicit", "best_worst"), name


def test_our_recipes_are_the_papers_but_for_follower_backend_held_out_pairs_and_the_round_that_is_shipped():
    for name in LARGE:
        paper, ours = recipe_of(name).model_dump(), recipe_of(f"{name}-exact").model_dump()
        for section, key, expected in (
            (("follower",), "solver", ("exact", "slsqp")),
            (("follower",), "group_size", (None, 100)),
            (("generation",), "backend", ("vllm", "transformers")),
            (("data", "split"), "heldout", (500, 0)),
            (("leader",), "accept", ("supported", "always")),
        ):
            nodes = [ours, paper]
            for part in section:
                nodes = [node[part] for node in nodes]
            assert tuple(node.pop(key) for node in nodes) == expected, (name, key)
        for recipe in (ours, paper):
            recipe.pop("output")
            recipe["generation"].pop("batch_size")
        assert ours == paper, name


PLANNED = """
import sys
from sgpo.cli import main
for recipe in sys.argv[1:]:
    print("exit code", main(["run", "--config", recipe, "--dry-run"]))
"""


@pytest.mark.slow
def test_every_large_recipe_is_planned_without_a_network(tmp_path):
    """In a process of its own, since the libraries read the offline mode only when they are imported."""
    recipes = [str(RECIPES / f"{name}{kind}.yaml") for name in LARGE for kind in ("", "-exact")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "COLUMNS": "200"}
    result = subprocess.run(
        [sys.executable, "-c", PLANNED, *recipes],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Plan of runs/") == 4
    # The recipes with vLLM cannot start where it is not installed, and none of them on a small disk.
    assert result.stdout.count("exit code 2") == result.stderr.count("sgpo run: ")
    assert result.stdout.count("exit code 0") == 4 - result.stdout.count("exit code 2")
    assert result.stdout.count("30000 prompts, 60000 responses") == 2
    assert "about 107.91 GiB" in result.stdout
    assert "which fits 80 GiB" in result.stdout
    assert result.stdout.count("not checked") == 8
    assert not (tmp_path / "runs").exists()
