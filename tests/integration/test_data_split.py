"""A recipe that draws its own seeds, pools and held-out pairs."""

import json

import pytest
import yaml
from datasets import Dataset, load_from_disk

from sgpo.cli import main

WORDS = [f"{first}{second}" for first in "abcdef" for second in "klmnop"]


@pytest.fixture
def split_recipe(recipe):
    """The micro recipe with a split of 36 pairs in two files in place of its own data."""
    content = yaml.safe_load(recipe.read_text())
    for part, words in (("one", WORDS[:24]), ("two", WORDS[24:])):
        rows = [{"prompt": f"What is {word}?", "chosen": f"A {word}.", "rejected": "No idea."} for word in words]
        Dataset.from_list(rows).to_parquet(recipe.parent / f"{part}.parquet")
    sources = [{"path": str(recipe.parent / "one.parquet"), "weight": 2}, {"path": str(recipe.parent / "two.parquet")}]
    content["rounds"] = 1
    content["data"] = {"split": {"sources": sources, "seeds": 8, "pools": [6], "heldout": 5}}
    recipe.write_text(yaml.safe_dump(content))
    return recipe


def prompts_of(dataset):
    return {row[-1]["content"] for row in dataset["prompt"]}


@pytest.mark.parametrize("selection", ["random", "farthest"])
def test_a_recipe_draws_its_own_split_once_and_its_parts_share_no_prompt(split_recipe, selection):
    options = ["run", "--config", str(split_recipe), "--quiet", f"data.split.selection={selection}"]
    assert main(options) == 0
    run = split_recipe.parent / "run"
    seeds, heldout = load_from_disk(run / "seed/pairs"), load_from_disk(run / "heldout/pairs")
    responses = load_from_disk(run / "round-1/responses")
    assert (len(seeds), len(heldout), len(responses)) == (8, 5, 6)
    assert len(prompts_of(seeds) | prompts_of(heldout) | prompts_of(responses)) == 19
    notes = json.loads((run / "data/split.json").read_text())
    assert [source["taken"] for source in notes["sources"]] == [24, 12]
    assert (notes["coverage_radius"] is None) == (selection == "random")
    before = (run / "data/split.json").stat().st_mtime_ns
    assert main(options) == 0
    assert (run / "data/split.json").stat().st_mtime_ns == before


def test_the_plan_names_the_split(split_recipe, capsys):
    assert main(["run", "--config", str(split_recipe), "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 seeds at random, 1 pool, 5 held out" in said
    assert not (split_recipe.parent / "run").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.split.pools=[60]", "runs out: 49 pairs"),
        ("data.split.pools=[6, 6]", "data.split.pools has 2 items; allowed: one per round (1)"),
        ("data.seeds=mine.jsonl", "data.seeds is given with data.split"),
    ],
)
def test_a_split_that_cannot_be_is_refused(split_recipe, capsys, override, said):
    assert main(["run", "--config", str(split_recipe), override]) == 2
    assert said in capsys.readouterr().err
    assert not (split_recipe.parent / "run").exists()


def test_prompts_too_long_for_the_model_are_found_before_anything_is_trained(split_recipe, capsys):
    content = yaml.safe_load(split_recipe.read_text())
    rows = [{"prompt": f"What is {word}?" + " bridge" * 300, "chosen": "A.", "rejected": "B."} for word in WORDS]
    Dataset.from_list(rows).to_parquet(split_recipe.parent / "long.parquet")
    content["data"]["split"]["sources"] = [{"path": str(split_recipe.parent / "long.parquet")}]
    split_recipe.write_text(yaml.safe_dump(content))
    assert main(["run", "--config", str(split_recipe), "--quiet"]) == 2
    assert "every prompt is too long" in capsys.readouterr().err
    assert not (split_recipe.parent / "run/seed").exists()
    shorter = ["data.split.max_prompt_chars=500", f"output={split_recipe.parent / 'other'}"]
    assert main(["run", "--config", str(split_recipe), "--quiet", *shorter]) == 2
    assert "none of the 36 rows is a preference: 36 prompts too long" in capsys.readouterr().err
