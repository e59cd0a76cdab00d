"""The plan of the evaluations: what they do, and hours by hand."""

import pytest

from sgpo.config import RunConfig, validate
from sgpo.rounds.costs import Scale
from sgpo.rounds.evaluations import plan_evaluations

SCALE = Scale(
    parameters=10**9, seeds=1, validation=0, heldout=0, pools=[1], prompt_tokens=200, response_tokens=300,
    human_tokens=400, evaluated={"human": 900, "reward": 36},
)  # fmt: skip
EVALUATE = [
    {"kind": "preferences", "name": "human", "pairs": "pairs.jsonl"},
    {"kind": "reward", "prompts": "p.jsonl", "model": "r"},
    {"kind": "judge", "prompts": "late.jsonl", "model": "j", "servers": ["http://x/v1"], "baseline": "answers.json"},
]


def plan(number, **changes):
    recipe = {"output": "x", "rounds": 1, "model": {"path": "m"}, "data": {"seeds": "s", "prompts": "p"}}
    config = validate(RunConfig, {**recipe, "evaluate": EVALUATE, **changes}, "recipe")
    return [tuple(stage) for stage in plan_evaluations(config, SCALE, number)]


def test_what_all_rounds_share_is_planned_once_and_what_is_not_written_yet_has_no_count():
    assert plan(0) == [
        ("evaluations/human/reference.npy", "900 pairs scored by the reference", None),
        ("round-0/evaluations/human", "preferences: 900 pairs", None),
        ("evaluations/reward/baseline.json", "36 answers of the SFT model", None),
        ("round-0/evaluations/reward", "reward: 36 answers", None),
        ("round-0/evaluations/judge", "judge: answers", None),
    ]
    later = [f"evaluations/{name}" for name in ("human", "reward", "judge")]
    assert [stage[0] for stage in plan(1)] == [f"round-1/{name}" for name in later]
    assert [stage[0] for stage in plan(2)] == [f"final/{name}" for name in later]


def test_hours_by_hand():
    """2 operations a weight and token, 1 teraflop a second while scoring and 0.1 otherwise; 400 tokens in a human row.

    Answers have 80% of their own limit, 1,024, which is not that of the rounds; a round also scores them twice.
    """
    hardware = {"devices": 1, "teraflops": 1, "utilisation": 1.0, "generation_utilisation": 0.1}
    found = {name: hours for name, _, hours in plan(0, hardware=hardware)}
    scoring, tokens = 1800 * 2 * 400 * 1e9 / 1e12 / 3600, 36 * (200 + 0.8 * 1024)
    answering, comparing = tokens * 2e9 / 1e11 / 3600, 2 * tokens * 2e9 / 1e12 / 3600
    assert found == {
        "evaluations/human/reference.npy": pytest.approx(scoring),
        "round-0/evaluations/human": pytest.approx(scoring),
        "evaluations/reward/baseline.json": pytest.approx(answering),
        "round-0/evaluations/reward": pytest.approx(answering + comparing),
        "round-0/evaluations/judge": None,
    }
