"""The round that a run ships, and the last DPO on all human pairs."""

import json

import numpy as np
import pytest
import yaml
from datasets import load_from_disk

from integration.conftest import WORDS, write_jsonl
from sgpo.cli import main
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_responses
from sgpo.policy.tokens import tokenize_responses
from sgpo.stats.acceptance import latest_supported

# A tiny model learns it from two dozen pairs: the answer that names the thing is the good one, whatever its length.
SEEDS = [
    {
        "prompt": f"{verb} the {word}.",
        "chosen": f"The {word} is old." if number % 2 else f"The {word} is old and quiet, and it stands by the road.",
        "rejected": "I do not know that, and nobody does, I am sure." if number % 2 else "I do not know.",
    }
    for number, verb in enumerate(("Tell me about", "Describe", "What is", "Where is"))
    for word in WORDS
]
BASE = ["rounds=1", "data.validation_share=0.5", "data.seeds_in_rounds=false", "leader.seed_epochs=6"]


@pytest.fixture
def taught(recipe):
    """The micro recipe with 48 seeds."""
    content = yaml.safe_load(recipe.read_text())
    content["data"]["seeds"] = write_jsonl(recipe.parent / "many.jsonl", SEEDS)
    recipe.write_text(yaml.safe_dump(content))
    return recipe


def run(recipe, *overrides):
    assert main(["run", "--config", str(recipe), "--quiet", *BASE, *overrides]) == 0
    folder = recipe.parent / "run"
    return folder, json.loads((folder / "shipped.json").read_text())


def gaps_of(folder, policy):
    """Gaps of the validation pairs, from scratch."""
    pairs, policy = load_from_disk(folder / "validation/pairs"), load_policy(policy)
    logps, lengths = {}, {}
    for side in ("chosen", "rejected"):
        texts = [row[0]["content"] for row in pairs[side]]
        logps[side] = score_responses(policy, pairs["prompt"][:], texts).logps
        rows = tokenize_responses(policy.tokenizer, pairs["prompt"][:], texts)
        lengths[side] = np.array([len(row.response_ids) for row in rows])
    gaps = (logps["chosen"] - pairs["ref_chosen_logps"][:]) - (logps["rejected"] - pairs["ref_rejected_logps"][:])
    return 0.1 * gaps, (lengths["chosen"] - lengths["rejected"]).astype(float)


@pytest.mark.parametrize("accept", ["supported", "supported_any_length"])
def test_the_shipped_round_is_the_latest_that_held_out_pairs_support(taught, accept):
    folder, shipped = run(taught, f"leader.accept={accept}")
    both = [gaps_of(folder, folder / f"round-{number}/policy") for number in (0, 1)]
    control = both[0][1] if accept == "supported" else None
    assert len(set(both[0][1])) > 2
    expected = latest_supported([gaps for gaps, _ in both], control=control)
    assert shipped["round"] == expected.place == 1
    assert (shipped["path"], shipped["pairs"]) == ("final/policy", 24)
    assert [one["p_value"] for one in shipped["rounds"]] == pytest.approx([one.p_value for one in expected.evidence])
    assert [one["threshold"] for one in shipped["rounds"]] == [0.025, 0.05]


def test_the_last_dpo_trains_on_every_human_pair_from_the_round_that_is_shipped(taught):
    folder, _ = run(taught, "leader.accept=supported", "leader.final_epochs=2")
    pairs = load_from_disk(folder / "final/pairs")
    given = {(row["prompt"], row["chosen"], row["rejected"]) for row in SEEDS}
    trained = {
        (row["prompt"][0]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs
    }
    assert trained == given
    assert set(pairs["source"]) == {"human"}
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["name"] for row in metrics] == ["DPO on seeds", "round 1", "final DPO"]
    assert metrics[2]["leader"]["steps"] == 2 * 48 // 4
    # The first margins are about those of round 1, on other pairs; from the SFT model they would be 0.
    first = json.loads((folder / "final/policy/training_log.json").read_text())[0]["rewards/margins"]
    start = np.mean(gaps_of(folder, folder / "round-1/policy")[0])
    assert start > 5
    assert first == pytest.approx(start, rel=0.2)
    assert "final/policy" in (folder / "report.html").read_text()


def test_where_no_round_is_supported_the_sft_model_is_shipped_and_nothing_more_is_trained(taught, capsys):
    content = yaml.safe_load(taught.read_text())
    # Labels that say nothing: of every four answers about a thing two are flipped.
    order = np.random.default_rng(0).permuted(np.tile([True, True, False, False], (len(WORDS), 1)), axis=1)
    swapped = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if flipped else row
        for row, flipped in zip(SEEDS, order.T.ravel(), strict=True)
    ]
    content["data"]["seeds"] = write_jsonl(taught.parent / "random.jsonl", swapped)
    taught.write_text(yaml.safe_dump(content))
    folder, shipped = run(taught, "leader.accept=supported")
    assert (shipped["round"], shipped["path"]) == (None, content["model"]["path"])
    assert not (folder / "final").exists()
    assert "Ship the SFT model" in (folder / "report.html").read_text()


def test_a_plan_notes_that_there_are_too_few_validation_pairs(taught, capsys):
    arguments = ["run", "--config", str(taught), "--dry-run", *BASE, "leader.accept=supported"]
    assert main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "about 24 validation pairs choose the round to ship; with fewer than 50" in said
    assert "a last DPO on all 48 human pairs" in said


def test_a_run_begins_with_the_notes_of_its_plan_unless_it_is_quiet(taught, capsys, monkeypatch):
    """Brackets in what it prints are not markup."""
    monkeypatch.setenv("COLUMNS", "400")
    arguments = ["run", "--config", str(taught), f"output={taught.parent / 'run [new]'}", *BASE, "rounds=0"]
    overrides = ["leader.accept=supported", "leader.final_epochs=0"]
    assert main([*arguments, *overrides]) == 0
    said = capsys.readouterr().out
    first, second, *others = said.splitlines()
    assert first.startswith("Note: 4 prompts of data.heldout are also among the seeds")
    assert second.startswith(
        "Note: about 24 validation pairs choose the round to ship; with fewer than 50 pairs the test"
    )
    assert not [line for line in others if "Note:" in line]
    assert "/run [new]/report.html" in said
    assert main([*arguments, *overrides, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_a_run_that_measures_nothing_ends_with_what_it_made_and_where_it_lies(recipe, capsys, monkeypatch):
    """And not with a table of one empty row. Its log names each stage when it starts and when it is done."""
    monkeypatch.setenv("COLUMNS", "400")
    content = yaml.safe_load(recipe.read_text())
    del content["data"]["heldout"]
    recipe.write_text(yaml.safe_dump({**content, "rounds": 0}))
    assert main(["run", "--config", str(recipe)]) == 0
    policy = recipe.parent / "run/round-0/policy"
    *_, start, done, metrics, measured, made, judged, report = capsys.readouterr().out.splitlines()
    assert (start, done.split()[:2]) == ("  … round-0/policy", ["✓", "round-0/policy"])
    assert metrics == "  … round-0/metrics.json" and "✓ round-0/metrics.json" in measured
    assert made == f"Made: DPO on seeds ({policy})." and policy.is_dir()
    assert judged.startswith("DPO on seeds was not evaluated: no win rate, no accuracy")
    assert report.startswith("Report: ")
    assert made.replace(f"{policy.parents[1]}/", "") in (policy.parents[1] / "report.html").read_text()


def test_by_default_a_fifth_of_the_seeds_are_validation_pairs(taught):
    content = yaml.safe_load(taught.read_text())
    del content["leader"]["accept"]
    taught.write_text(yaml.safe_dump({**content, "rounds": 0}))
    assert main(["run", "--config", str(taught), "--quiet", "data.seeds_in_rounds=false"]) == 0
    folder = taught.parent / "run"
    assert len(load_from_disk(folder / "validation/pairs")) == 10
    assert len(load_from_disk(folder / "seed/pairs")) == 38
    assert (folder / "shipped.json").exists()


def test_a_training_of_one_step_trains(recipe):
    overrides = ["rounds=0", "leader.batch_size=8", "leader.seed_epochs=1"]
    assert main(["run", "--config", str(recipe), "--quiet", *overrides]) == 0
    folder = recipe.parent / "run/round-0"
    assert json.loads((folder / "metrics.json").read_text())["leader"]["steps"] == 1
    before = load_policy(yaml.safe_load(recipe.read_text())["model"]["path"]).model.state_dict()
    after = load_policy(folder / "policy").model.state_dict()
    assert any(not before[name].equal(after[name]) for name in before)
