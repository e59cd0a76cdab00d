"""Methods with a model in the world of checkable requests: what they share, what is evaluated, and what gains mean."""

import json

import numpy as np
import pytest
from datasets import load_from_disk

from sgpo.errors import InputError
from sgpo.store.files import read_objects, write_jsonl
from sgpo_research.command import main
from sgpo_research.figures.gold_by_kl import gold_by_kl
from sgpo_research.real_model import Setting, results, run_methods
from sgpo_research.real_model_table import comparisons_table, gain, gains_table
from sgpo_research.runs import changed_recipe
from tiny_model import build_tiny_model

RECIPE = {
    "rounds": 1,
    "data": {"validation_share": 0.4},
    "generation": {"candidates": 3, "max_new_tokens": 12, "temperature": 1.0},
    "leader": {"accept": "supported", "learning_rate": 1e-3, "batch_size": 4, "micro_batch_size": 4, "max_length": 200},
}
POLICIES = ("sft", "round-0")
CHECKED = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def write_small_world(folder):
    texts = [f"Name {count} animals." for count in range(2, 18)]
    write_jsonl(
        folder / "seeds.jsonl", [{"prompt": text, "chosen": "A b c", "rejected": "D, e"} for text in texts[:10]]
    )
    write_jsonl(folder / "heldout.jsonl", [{"prompt": texts[10], "chosen": "A b c", "rejected": "D, e"}])
    write_jsonl(folder / "prompts.jsonl", [{"prompt": text} for text in texts[11:15]])
    for part, key in (("seen", 0), ("unseen", 10)):
        rows = [{"key": key + row, "prompt": f"{text} No commas.", **CHECKED} for row, text in enumerate(texts[:3])]
        write_jsonl(folder / f"test_{part}.jsonl", rows)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real_model")
    write_small_world(folder / "world" / "clean-0")
    model = build_tiny_model(folder / "model")
    # Many tokens end a response, so that most end.
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": list(range(2, 60))}))
    setting = Setting(str(model), folder / "world", folder / "out", RECIPE)
    run_methods(setting, "clean", 0, ["SSAPO", "iterative DPO", "SSAPO, per token", "cDPO"])
    return setting


def test_methods_share_what_is_the_same_in_them(done):
    runs = {name: done.output / "clean-0" / name for name in ("SSAPO", "iterative-DPO", "SSAPO-per-token", "cDPO")}
    read = {
        (name, part): (run / part).read_bytes()
        for name, run in runs.items()
        for part in ("round-0/policy/model.safetensors", "round-1/responses/data-00000-of-00001.arrow")
    }
    for part in ("round-0/policy/model.safetensors", "round-1/responses/data-00000-of-00001.arrow"):
        assert read["SSAPO", part] == read["iterative-DPO", part] == read["SSAPO-per-token", part] != read["cDPO", part]
    pairs = {name: load_from_disk(run / "round-1/pairs").to_list() for name, run in runs.items()}
    assert pairs["SSAPO"] == pairs["iterative-DPO"] != pairs["SSAPO-per-token"]


def test_every_policy_is_evaluated_on_every_test_prompt_and_once(done):
    rows, golds = results(done)
    assert {row["policy"] for row in rows if row["method"] == "cDPO"} == {"sft", "round-0", "round-1"}
    for row in rows:
        assert [len(values) for values in golds[row["labels"], 0, row["method"], row["policy"]].values()] == [3, 3]
        assert 0 <= row["gold"] <= 1 and (row["policy"] != "sft" or row["kl"] == 0)
    path = done.output / "clean-0" / "cDPO" / "round-1" / "gold.jsonl"
    lines = [line for _, line in read_objects(path)]
    assert len(lines) == 2 * 3 * 4
    assert all(line["gold"] == float("," not in line["response"] and bool(line["response"].strip())) for line in lines)
    before = path.stat().st_mtime_ns
    run_methods(done, "clean", 0, ["cDPO"])
    assert path.stat().st_mtime_ns == before


def test_the_command_shows_what_is_done(done, tmp_path, capsys):
    config = tmp_path / "recipe.yaml"
    config.write_text(json.dumps(RECIPE))
    line = ["real-model", "--model", done.model, "--world", str(done.world), "--output", str(done.output)]
    assert main([*line, "--config", str(config), "--rows"]) == 0
    golds = results(done)[1]
    assert (done.output / "results.md").read_text() == gains_table(golds) + "\n" + comparisons_table(golds)
    assert "<svg" in (done.output / "gold_by_kl.svg").read_text()
    assert main([*line, "--config", str(config), "--methods", "PPO"]) == 2
    assert "--methods has 'PPO'; allowed: 'SSAPO', " in capsys.readouterr().err
    assert main([*line, "--config", str(config), "--seeds", "0", "7"]) == 2
    assert f"--world {done.world} has no clean-7; it has: clean-0." in capsys.readouterr().err


@pytest.mark.slow
def test_runs_side_by_side_are_those_of_one_after_another(done, tmp_path):
    """The last DPO of an unsupported round 0 is not trained, so one policy of each run is evaluated."""
    for seed in (0, 1):
        write_small_world(tmp_path / "world" / f"clean-{seed}")
    config = tmp_path / "recipe.yaml"
    config.write_text(json.dumps(RECIPE))
    golds = []
    for jobs in ("1", "2"):
        output = tmp_path / jobs
        line = ["real-model", "--model", done.model, "--world", str(tmp_path / "world"), "--output", str(output)]
        assert (
            main([*line, "--config", str(config), "--seeds", "0", "1", "--methods", "DPO twice", "--jobs", jobs]) == 0
        )
        rows, _ = results(Setting(done.model, tmp_path / "world", output, RECIPE))
        assert [(row["seed"], row["policy"]) for row in rows] == [(seed, name) for seed in (0, 1) for name in POLICIES]
        golds.append([row["gold"] for row in rows])
    assert golds[0] == golds[1]


def test_a_gain_is_paired_by_prompt_and_its_interval_over_seeds_is_students():
    rng = np.random.default_rng(0)
    before = rng.random(50)
    pairs = [(before + shift, before) for shift in (0.1, 0.2, 0.3)]
    found = gain(pairs)
    assert found.mean == pytest.approx(0.2) == pytest.approx((found.low + found.high) / 2)
    # The shifts of a seed are those of all its prompts, so only seeds vary.
    assert found.high - found.low == pytest.approx(0)
    assert (found.seeds_high - found.mean) == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-6)
    assert np.isnan(gain(pairs[:1]).seeds_low)


def test_methods_are_compared_where_both_have_the_seed_and_the_policy():
    values = {"SSAPO": 0.5, "iterative DPO": 0.4, "DPO twice": 0.2}
    golds = {
        ("clean", seed, method, policy): {"seen": np.full(3, value + seed / 10), "unseen": np.full(3, value)}
        for seed, method, policy in [
            (0, "SSAPO", "round-3"), (1, "SSAPO", "round-3"), (1, "SSAPO", "shipped"), (1, "SSAPO", "final"),
            (1, "iterative DPO", "round-3"), (2, "iterative DPO", "round-3"), (1, "DPO twice", "shipped"),
        ]
        for value in [values[method]]
    }  # fmt: skip
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in comparisons_table(golds).splitlines()[2:]]
    assert [row[:6] for row in rows] == [
        ["clean", "round-3", "SSAPO", "iterative DPO", "1", "0.550 against 0.450"],
        ["clean", "shipped", "SSAPO", "DPO twice", "1", "0.550 against 0.250"],
    ]
    assert [row[6].split()[0] for row in rows] == ["+0.100", "+0.300"]


def test_the_figure_has_a_panel_for_each_annotator():
    rows = [
        {"labels": labels, "seed": 0, "method": "SSAPO", "policy": policy, "kl": kl, "gold": 0.4 + kl / 10}
        for labels in ("clean", "flipped")
        for policy, kl in (("sft", 0.0), ("round-0", 1.0), ("final", 2.0))
    ]
    assert [axes.get_title("left") for axes in gold_by_kl(rows).axes] == ["clean", "flipped"]


def test_an_unknown_key_of_a_changed_recipe_is_named():
    with pytest.raises(InputError, match=r"SSAPO.*leader\.betta"):
        changed_recipe(RECIPE, {"leader.betta": 1}, name="SSAPO")
