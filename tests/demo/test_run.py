"""The demo's own path: a recipe with a world, from nothing to an evaluated last round."""

import json

import numpy as np
import pytest
import yaml

from integration.whole_runs import planned_and_recorded
from sgpo.cli import main
from sgpo.config.world import PROMPT_TOKENS
from sgpo.demo.shop import ShopWorld

RECIPE = {
    "seed": 1,
    "rounds": 1,
    "world": {
        "facts": 0.5, "seed_pairs": 16, "heldout_pairs": 10, "pool_prompts": 24, "test_prompts": 12,
        "sft_examples": 1600, "layers": 1, "hidden": 64, "heads": 2,
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


def test_a_dry_run_writes_nothing_and_plans_the_world_like_any_run(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["run", "--config", str(recipe), "--dry-run", f"output={recipe.parent / 'dry'}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "SFT of a small Llama: 100 steps; 16 seeds, 10 held-out pairs, 24 pool prompts, 12 test prompts" in said
    assert "24 prompts, 72 responses" in said
    assert "Model: 0.1 M parameters" in said
    assert not (recipe.parent / "dry").exists()


def test_the_plan_names_the_stages_of_the_run_with_the_worlds_own_evaluation(run):
    """Without a supported round, which no plan can foresee, there is no last DPO."""
    planned, recorded = planned_and_recorded(run)
    assert [stage for stage in planned if not stage.startswith("final/")] == recorded
    assert {"world", "evaluations/gold/baseline.json", "round-1/evaluations/gold"} <= set(planned)


def test_every_round_is_evaluated_by_the_gold_reward_and_on_held_out_pairs(run):
    rounds = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [metrics["name"] for metrics in rounds[:2]] == ["DPO on seeds", "round 1"]
    for metrics in rounds:
        gold = metrics["evaluations"]["gold"]
        assert (gold["kind"], gold["count"]) == ("reward", 12)
        assert gold["low"] <= gold["value"] <= gold["high"]
        assert metrics["heldout"]["pairs"] == 10


def test_the_evaluation_compares_the_rounds_answers_with_the_sft_models_by_gold(run):
    folder = run / "round-1/evaluations/gold"
    answers, baseline = (
        json.loads(path.read_text()) for path in (folder / "answers.json", run / "evaluations/gold/baseline.json")
    )
    assert [row["prompt"][-1]["content"] for row in answers] == ShopWorld().prompts(12, 1, "test")
    world = ShopWorld(facts=0.5)
    expected = [
        [world.gold_reward(row["prompt"][-1]["content"], row["response"]) for row in pair]
        for pair in zip(answers, baseline, strict=True)
    ]
    result = json.loads((folder / "result.json").read_text())
    np.testing.assert_allclose(result["rewards"], expected)
    wins = sum((own > other) + 0.5 * (own == other) for own, other in expected) / len(expected)
    assert result["value"] == pytest.approx(wins)


def test_going_on_with_a_finished_run_changes_nothing_and_leads_to_the_report(run, recipe, capsys):
    def times():
        return {path: path.stat().st_mtime_ns for path in sorted(run.glob("world/**/*")) if path.is_file()}

    before = times()
    assert main(["run", "--config", str(recipe)]) == 0
    assert times() == before
    assert "report.html" in capsys.readouterr().out


def test_the_run_remembers_the_world_and_not_its_files(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["world"]["facts"] == 0.5
    assert (config["model"]["path"], config["data"]["seeds"], config["evaluate"]) == (None, None, [])


def test_a_world_supplies_its_own_data(recipe, capsys):
    assert main(["run", "--config", str(recipe), "data.seeds=mine.jsonl"]) == 2
    assert "data.seeds is given with a world" in capsys.readouterr().err


def test_sizes_that_cannot_be_are_found_by_the_plan(recipe, capsys):
    plan = ["run", "--config", str(recipe), "--dry-run", f"output={recipe.parent / 'dry'}"]
    assert main([*plan, "world.hidden=30", "world.heads=4"]) == 2
    assert "hidden is 30 and heads is 4" in capsys.readouterr().err
    assert main([*plan, "world.pool_prompts=3", "rounds=4"]) == 2
    assert "world.pool_prompts: holds 3 prompts; allowed: at least 4" in capsys.readouterr().err


def test_the_smallest_context_of_a_world_has_room_for_its_evaluation(recipe, tmp_path):
    """After ten steps of SFT, answers go on until they reach the limit of their tokens."""
    small = ["world.max_length=80", "world.sft_examples=160", "world.test_prompts=4", "world.pool_prompts=4"]
    rest = ["generation.max_new_tokens=40", "rounds=0", f"output={tmp_path / 'run'}"]
    assert main(["run", "--config", str(recipe), "--quiet", *small, *rest]) == 0
    result = json.loads((tmp_path / "run/round-0/evaluations/gold/result.json").read_text())
    assert result["cut"] > 0
    assert result["tokens"] <= 80 - PROMPT_TOKENS
