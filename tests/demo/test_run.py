"""The demo's own path: a recipe with a world, from nothing to a judged last round."""

import json

import pytest
import yaml
from datasets import load_from_disk

from sgpo.cli import main
from sgpo.demo.shop import ShopWorld

RECIPE = {
    "seed": 1,
    "rounds": 1,
    "world": {
        "seed_pairs": 16, "pool_prompts": 24, "test_prompts": 12, "sft_examples": 1600, "layers": 1, "hidden": 64,
        "heads": 2,
    },
    "generation": {"candidates": 3, "temperature": 1.0, "max_new_tokens": 48, "batch_size": 64},
    "leader": {"learning_rate": 1e-3, "batch_size": 8, "micro_batch_size": 8, "seed_epochs": 1, "max_length": 160},
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "output": str(path.parent / "run")}))
    return path


@pytest.fixture(scope="module")
def run(recipe):
    assert main(["run", "--config", str(recipe), "--quiet"]) == 0
    return recipe.parent / "run"


def test_a_dry_run_writes_nothing_and_names_the_world(recipe, capsys):
    assert main(["run", "--config", str(recipe), "--dry-run", f"output={recipe.parent / 'dry'}"]) == 0
    assert "SFT of a small Llama: 100 steps; 12 test prompts" in " ".join(capsys.readouterr().out.split())
    assert not (recipe.parent / "dry").exists()


def test_every_round_is_judged_by_the_gold_reward(run):
    rounds = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [metrics["name"] for metrics in rounds] == ["DPO on seeds", "round 1"]
    for metrics in rounds:
        assert metrics["gold"]["low"] <= metrics["gold"]["win_rate"] <= metrics["gold"]["high"]
        assert metrics["gold"]["prompts"] == 12
    assert "agreement" not in rounds[0]["gold"]
    pairs = load_from_disk(run / "round-1/pairs")
    rewards = [
        [
            ShopWorld().gold_reward(row["prompt"][-1]["content"], row[side][0]["content"])
            for side in ("chosen", "rejected")
        ]
        for row in pairs
    ]
    agreement = sum((chosen > rejected) + 0.5 * (chosen == rejected) for chosen, rejected in rewards) / len(pairs)
    assert rounds[1]["gold"]["agreement"] == pytest.approx(agreement)


def test_samples_and_table_say_what_the_metrics_say(run, recipe, capsys):
    for line in (run / "round-1/samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        assert sample["reward"] == pytest.approx(ShopWorld().gold_reward(sample["prompt"], sample["response"]))
    assert main(["run", "--config", str(recipe)]) == 0
    printed = capsys.readouterr().out
    win_rate = json.loads((run / "round-1/metrics.json").read_text())["gold"]["win_rate"]
    assert f"{win_rate:.3f}" in printed
    assert "report.html" in printed


def test_a_world_supplies_its_own_data(recipe, capsys):
    assert main(["run", "--config", str(recipe), "data.seeds=mine.jsonl"]) == 2
    assert "data.seeds is given beside a world" in capsys.readouterr().err
