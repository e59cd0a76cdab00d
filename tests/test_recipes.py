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


@pytest.mark.parametrize("name", LARGE)
def test_the_papers_recipes_have_the_papers_settings(name):
    """arXiv:2502.18099, Section 4."""
    recipe = recipe_of(name)
    mistral = name.startswith("mistral")
    assert recipe.data.split.seeds == 2000
    assert recipe.data.split.pools == [8000, 20000, 30000][: recipe.rounds]
    assert recipe.rounds == (3 if mistral else 2)
    assert recipe.leader.learning_rate == (5e-7 if mistral else 1e-6)
    assert recipe.leader.beta == (0.1 if mistral else 0.05)
    assert recipe.leader.seed_epochs == (3 if mistral else 1)
    follower = recipe.follower
    assert (follower.radius, follower.space, follower.tangents) == (0.01, "probability", 6)
    assert (follower.solver, follower.group_size) == ("slsqp", 100)
    generation = recipe.generation
    assert (generation.candidates, generation.temperature, generation.max_new_tokens) == (2, 0.7, 300)
    assert (recipe.annotation.annotator, recipe.annotation.choice) == ("implicit", "best_worst")


@pytest.mark.parametrize("name", LARGE)
def test_our_recipes_are_the_papers_but_for_follower_backend_held_out_pairs_and_the_round_that_is_shipped(name):
    paper, ours = recipe_of(name).model_dump(), recipe_of(f"{name}-exact").model_dump()
    assert (ours["follower"].pop("solver"), paper["follower"].pop("solver")) == ("exact", "slsqp")
    assert (ours["follower"].pop("group_size"), paper["follower"].pop("group_size")) == (None, 100)
    assert (ours["generation"].pop("backend"), paper["generation"].pop("backend")) == ("vllm", "transformers")
    assert (ours["data"]["split"].pop("heldout"), paper["data"]["split"].pop("heldout")) == (500, 0)
    assert (ours["leader"].pop("accept"), paper["leader"].pop("accept")) == ("supported", "always")
    for recipe in (ours, paper):
        recipe.pop("output")
        recipe["generation"].pop("batch_size")
    assert ours == paper


PLANNED = """
import sys
from sgpo.cli import main
for recipe in sys.argv[1:]:
    assert main(["run", "--config", recipe, "--dry-run"]) == 0
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
    assert result.stdout.count("30000 prompts, 60000 responses") == 2
    assert "about 53.96 GiB" in result.stdout
    assert "which fits 80 GiB" in result.stdout
    assert result.stdout.count("not checked") == 8
    assert not (tmp_path / "runs").exists()
