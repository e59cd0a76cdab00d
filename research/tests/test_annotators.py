"""`sgpo-study annotators`: the accuracy of what seeds can buy, on held-out pairs."""

import json

import pytest
import yaml

from refusals import unrefused
from sgpo.cli import main as sgpo
from sgpo.errors import InputError
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_pairs
from sgpo.preferences.source import load_pairs
from sgpo.stats.ranking import ranking_accuracy
from sgpo_research.annotators import IMPLICIT, LONGER, SHORTER, Accuracy, diagnose, judge
from sgpo_research.command import main
from tiny_model import build_tiny_model

NOUNS = ["bridge", "river", "town", "cat", "roof", "house", "stone", "sky", "poem", "night", "morning", "question"]


def rows_of(nouns, kinds):
    """The chosen response is the longer one but for the type `brief`."""
    rows = []
    for place, noun in enumerate(nouns):
        kind, longer, shorter = kinds[place % len(kinds)], f"The {noun} is old and quiet.", "No."
        chosen, rejected = (shorter, longer) if kind == "brief" else (longer, shorter)
        gold = {"gold_chosen": 1.0, "gold_rejected": 0.0, "types": [kind]}
        rows.append({"prompt": f"Tell me about the {noun}.", "chosen": chosen, "rejected": rejected, **gold})
    return rows


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that has trained on its seeds, and the held-out pairs."""
    folder = tmp_path_factory.mktemp("annotators")
    content = {
        "output": str(folder / "run"),
        "rounds": 0,
        "model": {"path": str(build_tiny_model(folder / "model"))},
        "data": {"seeds": write_rows(folder / "seeds.jsonl", rows_of(NOUNS, ["plain"]))},
        "leader": {"batch_size": 4, "max_length": 128, "learning_rate": 1e-3, "seed_epochs": 2, "accept": "always"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    write_rows(folder / "heldout.jsonl", rows_of(["lion", "tree", "lake", "road", "wall", "ship"], ["plain", "brief"]))
    assert sgpo(["run", "--config", str(folder / "recipe.yaml"), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def found(folder):
    assert main(["annotators", "--run", str(folder / "run"), "--pairs", str(folder / "heldout.jsonl"),
                 "--output", str(folder / "out")]) == 0  # fmt: skip
    return json.loads((folder / "out/annotators.json").read_text())


def test_implicit_reward_and_lengths_are_those_of_the_scores(folder, found):
    """Computed again from the policies, one by one."""
    rows = load_pairs(folder / "heldout.jsonl")
    own, base = (score_pairs(load_policy(folder / path), rows) for path in ("run/round-0/policy", "model"))
    implicit = (own.chosen - base.chosen) - (own.rejected - base.rejected)
    per_token = (own.chosen - base.chosen) / own.chosen_tokens - (own.rejected - base.rejected) / own.rejected_tokens
    mean = base.chosen / base.chosen_tokens - base.rejected / base.rejected_tokens
    for name, gaps in (
        (IMPLICIT, implicit),
        ("implicit reward per token", per_token),
        ("mean log-probability (SFT model)", mean),
        (LONGER, own.chosen_tokens - own.rejected_tokens),
    ):
        assert found["annotators"][name]["all"]["accuracy"] == ranking_accuracy(gaps.astype(float)).accuracy, name


def test_parts_follow_length_and_types(found):
    table = found["annotators"]
    assert {part: one["pairs"] for part, one in table[LONGER].items()} == {
        "all": 6, "chosen longer": 3, "chosen shorter": 3, "seen types": 3, "unseen types": 3, "type brief": 3,
        "type plain": 3,
    }  # fmt: skip
    assert table[LONGER]["unseen types"]["accuracy"] == 0 and table[LONGER]["seen types"]["accuracy"] == 1
    assert table[SHORTER]["chosen shorter"]["accuracy"] == 1
    # The seeds prefer what is said to what is not known, and so do heads, whatever the type.
    heads = next(row for name, row in table.items() if name.startswith("heads (mean) -"))
    assert heads["chosen longer"]["accuracy"] == 1 and heads["unseen types"]["accuracy"] == 0
    assert found["heads"]["pooling"] in ("mean", "last") and set(found["differences"]) > {
        "heads (mean)",
        "heads (last)",
    }
    assert found["heads"]["seeds"] == 12 and found["heads"]["mean"]["cross_validated"]["accuracy"] == 1


def test_the_page_has_every_annotator_every_type_and_the_verdict(folder, found):
    page = (folder / "out/annotators.md").read_text()
    assert all(f"| {name} |" in page for name in found["annotators"])
    assert "| plain | 3 |" in page and found["verdict"] in page and "6 held-out pairs of 6 prompts" in page


def test_pairs_that_share_a_prompt_widen_the_intervals(folder):
    """Each pair ten times tells no more than once."""
    rows = rows_of(NOUNS[:6], ["plain", "brief"])
    once, often = (write_rows(folder / f"{count}.jsonl", rows * count) for count in (1, 10))
    one, ten = (diagnose(folder / "run", path)["annotators"][LONGER]["all"] for path in (once, often))
    assert one["accuracy"] == ten["accuracy"] == 0.5 and (one["pairs"], ten["pairs"]) == (6, 60)
    assert ten["high"] - ten["low"] > 0.9 * (one["high"] - one["low"])


def table_of(**accuracies):
    """A table of 400 pairs a cell."""
    half = 0.05
    return {name: {"all": Accuracy(value, value - half, value + half, 400)} for name, value in accuracies.items()}


def test_the_verdict_says_what_the_intervals_say():
    near = {"heads (mean)": {"mean": 0.01, "low": -0.03, "high": 0.05}}
    assert "no follower can help" in judge(table_of(a=0.52, b=0.5, c=0.47), near)
    said = judge({**table_of(a=0.6, heads=0.7, c=0.5)}, {"heads": {"mean": 0.1, "low": 0.02, "high": 0.18}})
    assert (
        said.startswith("Best on the held-out pairs: heads, 0.700")
        and "better than chance are heads, a, of 3 (" in said
    )
    assert "better than the implicit reward (+0.100" in said
    worse = judge(table_of(a=0.6), {"heads": {"mean": -0.1, "low": -0.18, "high": -0.02}})
    assert "worse than the implicit reward" in worse
    only = {LONGER: table_of(x=0.7)["x"], SHORTER: table_of(x=0.3)["x"], "heads": table_of(x=0.5)["x"]}
    assert "would teach length" in judge(only, near)


def test_what_cannot_be_diagnosed_is_refused(folder, capsys):
    plain = write_rows(folder / "plain.jsonl", [{"prompt": "Why?", "chosen": "So.", "rejected": "No."}])
    odd = write_rows(folder / "odd.jsonl", [{**row, "types": [3]} for row in rows_of(NOUNS[:3], ["plain"])])
    heldout = str(folder / "heldout.jsonl")
    cases = [
        ({"run": folder / "model"}, "holds no run"),
        ({"number": 3}, "has no policy of round 3"),
        ({"number": -1}, "--round is -1; allowed: a whole number >= 0"),
        ({"pairs": str(folder / "nowhere.jsonl")}, "does not exist"),
        ({"pairs": plain}, "pairs of one prompt"),
        ({"pairs": odd}, "odd.jsonl line 1: types is \\[3\\]; allowed: a list of texts"),
        ({"seeds": plain}, "has no column 'types'"),
        ({"penalty": -1.0}, "penalty is -1.0; allowed: a number >= 0"),
    ]
    assert unrefused(lambda case: diagnose(**{"run": folder / "run", "pairs": heldout, **case}), cases) == {}
    with pytest.raises(SystemExit):
        main(["annotators", "--run", "x"])
    assert main(["annotators", "--run", str(folder), "--pairs", heldout, "--output", str(folder / "o")]) == 2
    assert "sgpo-study: " in capsys.readouterr().err and not (folder / "o").exists()


def test_pairs_without_types_have_no_parts_by_type(folder):
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows_of(NOUNS[:4], ["plain"])]
    found = diagnose(folder / "run", write_rows(folder / "untyped.jsonl", rows))
    assert list(found["annotators"][IMPLICIT]) == ["all", "chosen longer", "chosen shorter"]
    assert found["annotators"][IMPLICIT]["chosen shorter"] is None
    with pytest.raises(InputError, match="does not exist"):
        diagnose(folder / "run", str(folder / "heldout.jsonl"), seeds=str(folder / "gone.jsonl"))
