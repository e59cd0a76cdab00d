from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sgpo.preferences.annotate as annotate_module
from refusals import unrefused
from sgpo.preferences.annotate import annotate_pairs, implicit_rewards
from sgpo.preferences.layout import to_pairs

BETA = 0.1
NAN = float("nan")


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str = "stop"


def annotate(responses, rewards, **changes):
    """Annotates with log-probabilities that make `rewards` the implicit rewards."""
    prompts = [[{"role": "user", "content": f"{row}?"}] for row in range(len(responses))]
    rewards = np.asarray(rewards, dtype=float)
    arguments = {
        "policy_logps": np.nan_to_num(rewards / BETA - 50),
        "reference_logps": np.full(len(rewards), -50.0),
        "beta": BETA,
    }
    return annotate_pairs(prompts, responses, rewards, **{**arguments, **changes})


def test_the_best_response_is_paired_with_the_worst():
    found = annotate([[Answer("a"), Answer("b"), Answer("c")], [Answer("d"), Answer("e")]], [0.1, 0.9, -0.3, 1.0, 2.0])
    texts = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found.pairs]
    assert texts == [("b", "c"), ("e", "d")]
    assert found.pairs[1]["prompt"] == [{"role": "user", "content": "1?"}]


def test_stored_scores_are_those_of_the_pair_and_make_its_gap():
    policy, reference = np.array([-10.0, -20.0, -31.0]), np.array([-12.0, -21.0, -30.0])
    rewards = implicit_rewards(policy, reference, BETA)
    np.testing.assert_allclose(rewards, [0.2, 0.1, -0.1])
    found = annotate([[Answer("a"), Answer("b"), Answer("c")]], rewards, policy_logps=policy, reference_logps=reference)
    row = found.pairs[0]
    assert (row["chosen_logps"], row["rejected_logps"]) == (-10.0, -31.0)
    assert (row["ref_chosen_logps"], row["ref_rejected_logps"]) == (-12.0, -30.0)
    assert row["gap"] == pytest.approx(BETA * ((-10.0 + 12.0) - (-31.0 + 30.0)), abs=1e-12)


def test_rewards_order_the_pair_even_against_the_implicit_reward():
    policy, reference = np.array([-10.0, -20.0]), np.array([-15.0, -15.0])
    found = annotate([[Answer("a"), Answer("b")]], [0.0, 1.0], policy_logps=policy, reference_logps=reference)
    assert found.pairs[0]["chosen"][0]["content"] == "b"
    assert found.pairs[0]["gap"] == pytest.approx(-1.0)


DROPS = {
    "failed": ([Answer("", "filtered"), Answer("b")], [0.0, 1.0]),
    "identical": ([Answer("a"), Answer(" a\n")], [0.0, 1.0]),
    "unfinished": ([Answer("a"), Answer("b", "length")], [0.0, 1.0]),
    "empty": ([Answer("a"), Answer(" \n")], [0.0, 1.0]),
    "unranked": ([Answer("a"), Answer("b")], [1.0, float("nan")]),
    "tied": ([Answer("a"), Answer("b")], [1.0, 1.0]),
    "close": ([Answer("a"), Answer("b")], [1.0, 1.25]),
}


@pytest.mark.parametrize("reason", DROPS)
def test_a_prompt_without_a_pair_is_counted_under_its_reason(reason):
    responses, rewards = DROPS[reason]
    logps = {"policy_logps": np.zeros(4), "reference_logps": np.zeros(4)}
    found = annotate([responses, [Answer("x"), Answer("y")]], [*rewards, 0.0, 1.0], min_margin=0.5, **logps)
    assert found.counts["dropped"] == {name: int(name == reason) for name in DROPS}
    assert found.counts["pairs"] == len(found.pairs) == 1


def test_an_unfinished_response_is_out_before_the_best_is_chosen():
    found = annotate([[Answer("cut", "length"), Answer("b"), Answer("c")]], [9.0, 1.0, 0.0])
    assert found.pairs[0]["chosen"][0]["content"] == "b"


def test_annotated_pairs_are_pairs_in_the_layout():
    found = annotate([[Answer("a"), Answer("b")]] * 3, [0.0, 1.0] * 3)
    again = to_pairs(found.pairs, "pairs")
    assert again[:] == found.pairs[:]


def test_an_empty_result_has_all_columns():
    found = annotate([DROPS["tied"][0]], DROPS["tied"][1])
    full = annotate([[Answer("a"), Answer("b")]], [0.0, 1.0])
    assert found.pairs.features == full.pairs.features
    assert len(found.pairs) == 0


ANSWERS = [Answer(text) for text in "abcd"]


def texts(found):
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found.pairs]


def test_all_pairs_are_the_pairs_of_distinct_rewards():
    found = annotate([ANSWERS], [1.0, 3.0, 1.0, 0.0], choice="all")
    assert sorted(texts(found)) == [("a", "d"), ("b", "a"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert found.counts["paired"] == 1
    assert found.counts["dropped_pairs"] == {"tied": 1, "close": 0}
    assert sum(found.counts["dropped"].values()) == 0


def test_best_random_takes_every_other_response_about_as_often_and_by_the_seed():
    many = [ANSWERS] * 600
    found = annotate(many, [1.0, 3.0, 2.0, 0.0] * 600, choice="best_random", seed=1)
    assert {chosen for chosen, _ in texts(found)} == {"b"}
    shares = {text: sum(rejected == text for _, rejected in texts(found)) for text in "acd"}
    assert min(shares.values()) > 150
    again, other = (annotate(many, [1.0, 3.0, 2.0, 0.0] * 600, choice="best_random", seed=seed) for seed in (1, 2))
    assert texts(again) == texts(found) != texts(other)


def test_the_margin_of_a_pair_is_that_of_its_rewards():
    found = annotate([ANSWERS[:3]], [1.0, 4.0, 0.5], choice="all", min_margin=0.6)
    assert sorted(row["reward_margin"] for row in found.pairs) == [3.0, 3.5]
    assert found.counts["dropped_pairs"] == {"tied": 0, "close": 1}


def test_a_margin_must_be_exceeded():
    found = annotate([ANSWERS[:2]] * 3, [1.0, 0.5, 1.0, 0.25, 0.0, 0.0], min_margin=0.5)
    assert found.pairs["reward_margin"][:] == [0.75]
    assert found.counts["dropped_pairs"] == {"tied": 1, "close": 1}


def test_the_margin_is_in_the_unit_of_the_rewards_and_the_gap_in_nats():
    found = annotate([ANSWERS[:2]], [3.0, 5.0], policy_logps=[-10.0, -11.0], reference_logps=[0.0, 0.0])
    assert (found.pairs[0]["reward_margin"], found.pairs[0]["gap"]) == (2.0, pytest.approx(-0.1))


@pytest.mark.parametrize("rewards", [[0.0, 0.0, 0.1], [0.1, 0.0, 0.0], [0.0, 0.1, 0.1]])
def test_a_prompt_of_tied_and_close_pairs_is_close(rewards):
    found = annotate([ANSWERS[:3]], rewards, choice="all", min_margin=0.5)
    assert found.counts["dropped"]["close"] == 1
    assert found.counts["dropped_pairs"] == {"tied": 1, "close": 2}


def test_a_random_response_is_below_the_best_where_any_is():
    found = annotate([ANSWERS] * 50, [1.0, 1.0, 1.0, 0.0] * 50, choice="best_random")
    assert texts(found) == [("a", "d")] * 50


def test_a_random_draw_depends_on_seed_and_row_only():
    rewards = np.tile(np.arange(4.0), 60)
    all_rows, some = (
        annotate([ANSWERS] * rows, rewards[: 4 * rows], choice="best_random", seed=3) for rows in (60, 20)
    )
    assert texts(all_rows)[:20] == texts(some)
    assert len(set(texts(some))) == 3


def test_of_duplicates_the_first_with_a_reward_stays():
    found = annotate([[Answer("a"), Answer("a "), Answer("a"), Answer("b")]], [NAN, 1.0, 9.0, 0.0])
    assert texts(found) == [("a ", "b")]
    assert found.pairs[0]["reward_margin"] == 1.0


def test_pairs_of_more_than_one_block_keep_their_rows():
    count = annotate_module._BLOCK + 3
    found = annotate([[Answer("a"), Answer(f"b{row}")] for row in range(count)], np.tile([0.0, 1.0], count))
    assert len(found.pairs) == count
    for row in (0, count - 4, count - 1):
        assert found.pairs[row]["prompt"][0]["content"] == f"{row}?"
        assert found.pairs[row]["chosen"][0]["content"] == f"b{row}"


answers = st.builds(
    Answer, st.sampled_from(["a", "a ", "b", "c", "", " "]), st.sampled_from(["stop", "stop", "length"])
)
scored = st.lists(st.tuples(answers, st.sampled_from([NAN, -1.0, 0.0, 0.5, 2.0])), min_size=2, max_size=5)
choices = st.sampled_from(["best_worst", "best_random", "all"])


@settings(deadline=None, max_examples=120)
@given(st.lists(scored, max_size=6), choices, st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 3))
def test_counts_add_up_and_every_pair_is_a_preference(rows, choice, min_margin, seed):
    responses = [[answer for answer, _ in row] for row in rows]
    rewards = [reward for row in rows for _, reward in row]
    found = annotate(responses, rewards, choice=choice, min_margin=min_margin, seed=seed)
    counts = found.counts
    by_prompt = Counter(pair["prompt"][0]["content"] for pair in found.pairs)
    assert counts["prompts"] == len(rows) == counts["paired"] + sum(counts["dropped"].values())
    assert counts["responses"] == len(rewards)
    assert counts["pairs"] == len(found.pairs)
    assert counts["paired"] == len(by_prompt)
    usable = [len(_usable(row)) for row in rows]
    looked_at = sum(n * (n - 1) // 2 if choice == "all" else n >= 2 for n in usable)
    assert counts["pairs"] + sum(counts["dropped_pairs"].values()) == looked_at
    for pair in found.pairs:
        row = rows[int(pair["prompt"][0]["content"][:-1])]
        chosen, rejected = pair["chosen"][0]["content"], pair["rejected"][0]["content"]
        assert chosen.strip() and rejected.strip() and chosen.strip() != rejected.strip()
        assert (Answer(chosen), pair["chosen_logps"]) in [(answer, reward / BETA - 50) for answer, reward in row]
        assert (Answer(rejected), pair["rejected_logps"]) in [(answer, reward / BETA - 50) for answer, reward in row]
        assert pair["reward_margin"] > min_margin
        assert pair["gap"] == pytest.approx(pair["reward_margin"])
        if choice != "all":
            best = max(reward for reward in _usable(row).values())
            assert pair["chosen_logps"] == best / BETA - 50
        if choice == "best_worst":
            assert pair["rejected_logps"] == min(_usable(row).values()) / BETA - 50


def _usable(row):
    """Reward of each text that can make a pair: that of its first ranked occurrence."""
    found = {}
    for answer, reward in row:
        if answer.finish_reason == "stop" and answer.text.strip() and not np.isnan(reward):
            found.setdefault(answer.text.strip(), reward)
    return found


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(5)), choices.filter(lambda choice: choice != "best_random"))
def test_the_order_of_the_candidates_changes_no_pair(order, choice):
    texts, rewards = "abcde", [0.5, -1.0, 2.0, NAN, 0.0]
    straight = annotate([[Answer(text) for text in texts]], rewards, choice=choice)
    turned = annotate([[Answer(texts[place]) for place in order]], [rewards[place] for place in order], choice=choice)
    assert straight.pairs[:] == turned.pairs[:]


BAD = [
    ({"rewards": [0.0, 1.0, np.inf, 1.0]}, "rewards row 1, response 0: inf; allowed: a finite number"),
    ({"policy_logps": [0, 0, 0, -np.inf]}, "policy_logps row 1, response 1: -inf"),
    ({"reference_logps": [np.nan, 0, 0, 0]}, "reference_logps row 0, response 0: nan"),
    ({"rewards": [0.0, 1.0]}, r"rewards has the shape \(2,\); allowed: one number per response, 4"),
    ({"choice": "best"}, "choice is 'best'; allowed: 'best_worst', 'best_random' or 'all'"),
    ({"min_margin": -0.5}, "min_margin is -0.5; allowed: a number >= 0"),
    ({"min_margin": NAN}, "min_margin is nan; allowed: a number >= 0"),
    ({"seed": -1}, "seed is -1; allowed: a whole number >= 0"),
    ({"beta": 0.0}, "beta is 0.0; allowed: a number > 0"),
    ({"prompts": []}, "responses has 2 rows; allowed: one per prompt, 0"),
    ({"responses": [[Answer("a")], [Answer("b")]]}, "responses row 0 has 1 responses; allowed: at least two"),
    (
        {"responses": [[Answer("a"), Answer("b", "eos")]] * 2},
        "responses row 0: finish_reason is 'eos'; allowed: 'stop' or 'length'",
    ),
]


def test_a_bad_argument_is_named():
    arguments = {
        "prompts": [[{"role": "user", "content": "?"}]] * 2,
        "responses": [[Answer("a"), Answer("b")]] * 2,
        "rewards": np.arange(4.0),
        "policy_logps": np.arange(4.0),
        "reference_logps": np.zeros(4),
        "beta": BETA,
    }
    assert unrefused(lambda case: annotate_pairs(**{**arguments, **case}), BAD) == {}
