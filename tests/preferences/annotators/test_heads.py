"""Reward heads on the states of a real model: what they read, how they rank, what they refuse."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from refusals import unrefused
from sgpo.config import AnnotationConfig, validate
from sgpo.config.options import HeadsOptions
from sgpo.errors import InputError
from sgpo.policy.embed import embed_prompts, embed_responses
from sgpo.policy.load import load_policy
from sgpo.policy.tokens import tokenize_responses
from sgpo.preferences.annotators.heads import RewardHeads
from sgpo.preferences.layout import to_pairs
from sgpo.stats.heads import STRENGTHS
from tiny_model import build_tiny_model

NOUNS = ["bridge", "river", "town", "cat", "roof", "house", "stone", "sky", "poem", "night", "morning", "question"]
ROWS = [
    {"prompt": f"Tell me about the {noun}.", "chosen": f"The {noun} is {word} and quiet.", "rejected": "I do not know."}
    for noun in NOUNS
    for word in ("old", "new")
]
PROMPTS = [[{"role": "user", "content": "What is a poem?"}], [{"role": "user", "content": "Über 🌉"}]]
RESPONSES = [["The poem is old and quiet.", "I do not know.", ""], ["I do not know.", "The sky is new and quiet."]]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(build_tiny_model(tmp_path_factory.mktemp("heads") / "model"), device="cpu")


@pytest.fixture(scope="module")
def pairs():
    return to_pairs(Dataset.from_list(ROWS), "rows")


def fitted(policy, pairs, **options):
    annotator = RewardHeads(policy, HeadsOptions(**options))
    heads, about = annotator.fit(pairs, seed=0)
    return RewardHeads(policy, HeadsOptions(**{**options, "pooling": about["pooling"]}), heads), about


@pytest.mark.parametrize("batch_tokens", [1, 60, 8192])
def test_states_of_a_response_are_their_mean_and_the_last_one(policy, batch_tokens):
    """One response at a time, through the public interface of transformers."""
    states, too_long = embed_responses(policy, PROMPTS, RESPONSES, batch_tokens=batch_tokens)
    assert states.shape == (5, 2, 32) and states.dtype == np.float32 and not too_long.any()
    flat = [(prompt, text) for prompt, texts in zip(PROMPTS, RESPONSES, strict=True) for text in texts]
    for place, row in enumerate(tokenize_responses(policy.tokenizer, *zip(*flat, strict=True))):
        with torch.no_grad():
            ids = torch.tensor([row.prompt_ids + row.response_ids])
            hidden = policy.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        expected = [hidden[len(row.prompt_ids) :].mean(dim=0).numpy(), hidden[-1].numpy()]
        np.testing.assert_allclose(states[place], expected, atol=2e-5)


def test_a_row_beyond_the_context_has_no_state_and_changes_no_other(policy):
    long = [["x" * 100_000, "I do not know."], ["I do not know."]]
    states, too_long = embed_responses(policy, PROMPTS, long)
    assert too_long.tolist() == [True, False, False] and np.isnan(states[0]).all()
    np.testing.assert_allclose(states[1:], embed_responses(policy, PROMPTS, RESPONSES)[0][[1, 3]], atol=2e-5)


def test_a_response_without_tokens_has_the_state_of_its_prompt(tmp_path):
    """A template that closes no turn leaves an empty response none."""
    policy = load_policy(build_tiny_model(tmp_path / "open"), device="cpu")
    policy.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    states, _ = embed_responses(policy, PROMPTS[:1], [[""]])
    np.testing.assert_allclose(states[0], np.repeat(embed_prompts(policy, PROMPTS[:1]), 2, axis=0), atol=2e-5)


def test_heads_learn_what_the_seeds_prefer_and_say_how_well(policy, pairs):
    annotator, about = fitted(policy, pairs)
    assert about["accuracy"] == 1 and about["pairs"] == len(ROWS)
    assert about["regularisation"] in STRENGTHS and about["left_out"] == {"too_long": 0, "not_finite": 0}
    ranking = annotator(PROMPTS, RESPONSES)
    assert ranking.rewards[0] > ranking.rewards[1] and ranking.rewards[4] > ranking.rewards[3]
    assert ranking.counts == {"too_long": 0, "not_finite": 0}


def test_the_reward_is_the_mean_less_the_penalty_times_the_deviation(policy, pairs):
    """And without a penalty the mean over the heads, whose deviation is a part of the ranking."""
    plain, _ = fitted(policy, pairs, penalty=0, heads=7, pooling="mean")
    each = plain.heads.rewards(embed_responses(policy, PROMPTS, RESPONSES)[0][:, 0])
    assert each.shape == (5, 7)
    np.testing.assert_allclose(plain(PROMPTS, RESPONSES).rewards, each.mean(axis=1), atol=1e-5)
    bold = RewardHeads(policy, HeadsOptions(penalty=2.5, pooling="mean"), plain.heads)(PROMPTS, RESPONSES)
    np.testing.assert_allclose(bold.parts["head_std"], each.std(axis=1), atol=1e-5)
    np.testing.assert_allclose(bold.rewards, each.mean(axis=1) - 2.5 * each.std(axis=1), atol=1e-5)
    single, _ = fitted(policy, pairs, heads=1)
    assert not single(PROMPTS, RESPONSES).parts["head_std"].any()


def test_the_pooling_that_orders_held_out_seeds_better_is_chosen(policy, pairs, monkeypatch):
    """Of states that say nothing in one pooling, whichever it is, and all in the other."""
    for place, pooling in enumerate(("mean", "last")):

        def without(*arguments, blind=1 - place, **options):
            states, too_long = embed_responses(*arguments, **options)
            states[:, blind] = np.random.default_rng(0).normal(size=states[:, blind].shape)
            return states, too_long

        monkeypatch.setattr("sgpo.preferences.annotators.heads.embed_responses", without)
        _, about = fitted(policy, pairs)
        assert about["pooling"] == pooling and about["tried"][pooling] == about["accuracy"] > 0.85
        assert len(about["tried"]) == 2 and min(about["tried"].values()) < about["accuracy"]


@pytest.mark.parametrize(("place", "pooling"), [(0, "mean"), (1, "last")])
def test_given_pooling_and_regularisation_are_used(policy, pairs, place, pooling):
    """Stronger regularisation, smaller weights; and the heads read the states of their pooling."""
    annotator, about = fitted(policy, pairs, pooling=pooling, regularisation=0.3)
    stronger, _ = fitted(policy, pairs, pooling=pooling, regularisation=30.0)
    assert about["regularisation"] == 0.3
    assert np.linalg.norm(stronger.heads.weights) < 0.2 * np.linalg.norm(annotator.heads.weights)
    texts = [[row["chosen"][0]["content"], row["rejected"][0]["content"]] for row in pairs]
    states = embed_responses(policy, pairs["prompt"][:], texts)[0][:, place]
    np.testing.assert_allclose(annotator.heads.centre, states.mean(axis=0), atol=1e-4)


def test_responses_without_states_have_no_reward_and_are_counted_up_to_a_share(policy, pairs):
    annotator, _ = fitted(policy, pairs)
    ranking = annotator(PROMPTS, [["x" * 100_000, "I do not know."], RESPONSES[1]])
    assert np.isnan(ranking.rewards).tolist() == [True, False, False, False]
    assert ranking.counts == {"too_long": 1, "not_finite": 0}
    strict = RewardHeads(policy, annotator.options, annotator.heads, max_failed=0)
    with pytest.raises(
        InputError, match=r"1 of 2 responses .* failed \(too_long 1\); allowed: a share of max_failed, 0"
    ):
        strict(PROMPTS[:1], [["x" * 100_000, "I do not know."]])


def test_states_that_are_not_finite_are_counted_too(pairs, tmp_path):
    """Weights at which float32 overflows for every text."""
    policy = load_policy(build_tiny_model(tmp_path / "broken"), device="cpu")
    annotator, _ = fitted(policy, pairs)
    policy.model.model.norm.weight.data[0] = torch.inf
    with pytest.raises(InputError, match=r"5 of 5 responses .* \(not_finite 5\)"):
        annotator(PROMPTS, RESPONSES)
    lenient = RewardHeads(policy, annotator.options, annotator.heads, max_failed=1)(PROMPTS, RESPONSES)
    assert np.isnan(lenient.rewards).all() and lenient.counts == {"too_long": 0, "not_finite": 5}


def test_seed_pairs_beyond_the_context_are_left_out_and_counted(policy):
    long = {"prompt": "Why?", "chosen": "x" * 100_000, "rejected": "No."}
    _, about = fitted(policy, to_pairs(Dataset.from_list([*ROWS[:12], long, *ROWS[12:]]), "rows"))
    assert about["pairs"] == len(ROWS) and about["left_out"] == {"too_long": 1, "not_finite": 0}


def test_progress_counts_prompts(policy, pairs):
    counts = []
    RewardHeads(policy, HeadsOptions(batch_tokens=200)).fit(pairs, seed=0, progress=counts.append)
    assert sum(counts) == pytest.approx(len(ROWS)) and len(counts) > 1


def test_wrong_options_are_refused_with_the_recipe():
    cases = [
        ({"options": {"penalty": -0.5}}, "penalty is -0.5; allowed: a number >= 0"),
        ({"options": {"penalty": float("nan")}}, "penalty is nan; allowed: a finite number >= 0"),
        ({"options": {"heads": 0}}, "heads is 0; allowed: a whole number >= 1"),
        ({"options": {"regularisation": 0}}, "regularisation is 0; allowed: a number > 0, or null"),
        ({"options": {"pooling": "first"}}, "pooling is 'first'; allowed: 'mean' or 'last', or null"),
        ({"options": {"lambda": 1}}, "unknown key lambda; allowed: batch_tokens, dtype, device, heads, penalty,"),
        ({"function": "f.py:f"}, "function is 'f.py:f' with annotator 'heads', which takes none"),
    ]

    def check(case):
        validate(AnnotationConfig, {"annotator": "heads", **case}, "annotation")

    assert unrefused(check, cases) == {}
