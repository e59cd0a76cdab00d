"""The whole loop on a small slice of real preferences, from training a tokenizer to held-out accuracy."""

import json
import os
from pathlib import Path

import pytest
from datasets import load_from_disk

from example_scripts import load_example
from sgpo.cli import main

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SGPO_REAL_PREFERENCES", ROOT.parent / "shared" / "data" / "gpt4-preferences"))


def test_a_wrong_folder_is_one_message(tmp_path, capsys):
    example = load_example("real_preferences")
    assert example.main(["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "new")]) == 2
    assert "real_preferences: " in (said := capsys.readouterr().err) and "nowhere" in said
    (tmp_path / "full" / "mine").mkdir(parents=True)
    assert example.main(["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "full")]) == 2
    assert "full is not empty" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    not DATA.is_dir(), reason=f"needs the real preferences; set SGPO_REAL_PREFERENCES (looked in {DATA})"
)
def test_real_preferences_run_from_text_to_held_out_accuracy(tmp_path):
    prepare = load_example("real_preferences").prepare
    recipe = prepare(DATA, tmp_path / "real", longest_prompt=60, longest_response=220, rounds=2, epochs=1, hidden=64)
    small = ["generation.max_new_tokens=80", "generation.candidates=3", "leader.max_length=200", "leader.batch_size=8"]
    assert main(["run", "--config", str(recipe), "--quiet", *small]) == 0
    lines = [json.loads(line) for line in (tmp_path / "real/run/metrics.jsonl").read_text().splitlines()]
    rounds = lines[:3]
    assert [metrics["round"] for metrics in rounds] == [0, 1, 2]
    # If a round is shipped, a final DPO follows.
    shipped = json.loads((tmp_path / "real/run/shipped.json").read_text())
    assert len(lines) == 3 + (shipped["round"] is not None)
    for metrics in rounds:
        heldout = metrics["heldout"]
        assert heldout["low"] <= heldout["accuracy"] <= heldout["high"]
    for metrics in rounds[1:]:
        counts = metrics["annotation"]
        assert counts["pairs"] + sum(counts["dropped"].values()) == counts["prompts"] > 0

    # No held-out prompt is a seed or a pool prompt.
    run = tmp_path / "real" / "run"
    unseen = {row[-1]["content"] for row in load_from_disk(run / "heldout/pairs")["prompt"]}
    for stage in ("seed/pairs", "round-1/responses", "round-2/responses"):
        assert not unseen & {row[-1]["content"] for row in load_from_disk(run / stage)["prompt"]}
