"""The real loop in the text world: what methods share, and what their rows say. The quick form of the table."""

import json

import pytest

from sgpo_research.text_world import METHODS, REGIMES, run_text_world, text_recipe, text_world_rows

TINY = {
    "rounds": 1, "world.pool_prompts": 24, "world.seed_pairs": 40, "world.heldout_pairs": 20, "world.test_prompts": 20,
    "world.sft_examples": 640,
}  # fmt: skip


@pytest.mark.slow
def test_methods_share_the_world_and_those_with_the_same_seeds_round_0_and_rows_say_what_is_shipped(tmp_path):
    names = ("iterative DPO", "SSAPO, paper", "SSAPO, supported")
    changes = {name: {**METHODS[name], **TINY} for name in names}
    rows = run_text_world("benign", changes, seed=0, folder=tmp_path)
    runs = {name: tmp_path / "benign-0" / name.replace(" ", "-") for name in names}
    weights = {
        (name, part): (run / part / "model.safetensors").read_bytes()
        for name, run in runs.items()
        for part in ("world/sft", "round-0/policy", "round-1/policy")
    }
    assert len({weights[name, "world/sft"] for name in names}) == 1
    plain, paper, default = names
    assert weights[plain, "round-0/policy"] == weights[paper, "round-0/policy"] != weights[default, "round-0/policy"]
    assert weights[plain, "round-1/policy"] != weights[paper, "round-1/policy"]
    by_method = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    assert list(by_method) == [f"{name}{end}" for name in names for end in ("", ", human last")]
    for name in (plain, paper):
        last, human = by_method[name][-1], by_method[f"{name}, human last"][0]
        assert (last["shipped"], last["shipped_win_rate"]) == (1, last["win_rate"])
        assert (human["round"], human["shipped_win_rate"]) == (2, human["win_rate"])
    decided = json.loads((runs[default] / "shipped.json").read_text())["round"]
    assert by_method[default][-1]["shipped"] == (-1 if decided is None else decided)
    again = run_text_world("benign", changes, seed=0, folder=tmp_path)
    assert again == rows


@pytest.mark.slow
def test_the_quick_form_has_both_regimes_and_three_methods(tmp_path):
    rows = text_world_rows(0, True, tmp_path)
    assert {row["regime"] for row in rows} == set(REGIMES)
    assert {row["method"] for row in rows} >= {"iterative DPO", "SSAPO, paper", "SSAPO, supported"}
    for row in rows:
        # Against itself the SFT model has no interval.
        if row["low"] is None:
            assert (row["win_rate"], row["shipped"]) == (0.5, -1)
        else:
            assert 0 <= row["low"] <= row["win_rate"] <= row["high"] <= 1


def test_regimes_differ_by_their_own_keys_alone():
    benign, derailing = (text_recipe(regime, {}, seed=0, output="run").model_dump() for regime in REGIMES)
    assert (benign["world"].pop("facts"), derailing["world"].pop("facts")) == (0.0, 1.0)
    assert (benign["world"].pop("flip_rate"), derailing["world"].pop("flip_rate")) == (0.05, 0.25)
    for key in ("learning_rate", "epochs"):
        assert benign["leader"].pop(key) != derailing["leader"].pop(key)
    assert benign == derailing
