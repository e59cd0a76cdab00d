import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
)

from policy.conversations import PROMPTS, RESPONSES, ask
from policy.trl_peer import pairs_dataset, score_with_trl
from refusals import unrefused
from sgpo.errors import InputError
from sgpo.policy import score
from sgpo.policy.load import Policy, load_policy
from sgpo.policy.score import score_pairs, score_responses
from sgpo.policy.tokens import tokenize_prompts, tokenize_responses
from tiny_model import build_tiny_model, build_tiny_tokenizer

REJECTED = [f"No. {response}" for response in RESPONSES]


def score_one_by_one(policy, prompts, responses):
    """log pi(y|x) by the chain rule, one sequence and one full forward at a time."""
    logps = []
    for messages, response in zip(prompts, responses, strict=True):
        prompt_ids, response_ids = tokenize_responses(policy.tokenizer, [messages], [response])[0]
        ids = torch.tensor([prompt_ids + response_ids])
        with torch.no_grad():
            logits = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double()
        steps = torch.log_softmax(logits, dim=-1)
        logps.append(sum(steps[place - 1, ids[0, place]].item() for place in range(len(prompt_ids), ids.shape[1])))
    return np.array(logps)


@pytest.mark.parametrize("max_length", [None, 60])
def test_scores_are_the_log_probabilities_of_trl(policy, policy_path, tmp_path, max_length):
    prompts, chosen, rejected = PROMPTS[:3], RESPONSES[:3], REJECTED[:3]
    if max_length is not None:
        prompts, chosen, rejected = (
            prompts[:2],
            [RESPONSES[0] * 3, RESPONSES[1] * 3],
            [REJECTED[0] * 3, REJECTED[1] * 3],
        )
    expected = score_with_trl(policy_path, prompts, chosen, rejected, tmp_path, max_length)
    for logps, responses in zip(expected, (chosen, rejected), strict=True):
        found = score_responses(policy, prompts, responses, max_length=max_length)
        uncut = score_responses(policy, prompts, responses)
        assert (found.n_tokens.sum() < uncut.n_tokens.sum()) == (max_length is not None)
        np.testing.assert_allclose(found.logps, logps, rtol=0, atol=1e-4)


def test_scores_follow_the_chain_rule(policy):
    found = score_responses(policy, PROMPTS, RESPONSES)
    np.testing.assert_allclose(found.logps, score_one_by_one(policy, PROMPTS, RESPONSES), rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 100, 300, 100_000])
def test_scores_do_not_depend_on_the_batches(policy, batch_tokens):
    whole = score_responses(policy, PROMPTS * 3, RESPONSES * 3)
    cut = score_responses(policy, PROMPTS * 3, RESPONSES * 3, batch_tokens=batch_tokens)
    np.testing.assert_allclose(cut.logps, whole.logps, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(cut.n_tokens, whole.n_tokens)


def test_scores_do_not_depend_on_the_slices_of_the_logits(policy, monkeypatch):
    whole = score_responses(policy, PROMPTS, RESPONSES)
    monkeypatch.setattr(score, "_SLICE", 1)
    np.testing.assert_allclose(score_responses(policy, PROMPTS, RESPONSES).logps, whole.logps, rtol=0, atol=1e-5)


def test_scores_keep_the_order_of_their_rows(policy):
    order = np.array([3, 0, 5, 1, 4, 2])
    straight = score_responses(policy, PROMPTS, RESPONSES, batch_tokens=150)
    shuffled = score_responses(policy, [PROMPTS[i] for i in order], [RESPONSES[i] for i in order], batch_tokens=150)
    np.testing.assert_allclose(shuffled.logps, straight.logps[order], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(shuffled.n_tokens, straight.n_tokens[order])


def small(config, **extra):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
    return config(vocab_size=384, **{**sizes, **extra})


ARCHITECTURES = {
    "soft-capped logits": lambda: Gemma2ForCausalLM(
        small(Gemma2Config, intermediate_size=32, num_key_value_heads=1, head_dim=8, final_logit_softcapping=3.0)
    ),
    "learned positions": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=384, n_embd=16, n_layer=2, n_head=2, n_positions=256, initializer_range=0.3)
    ),
    "ALiBi": lambda: BloomForCausalLM(BloomConfig(vocab_size=384, hidden_size=16, n_layer=2, n_head=2)),
    "sliding window": lambda: MistralForCausalLM(
        small(MistralConfig, intermediate_size=32, num_key_value_heads=1, sliding_window=8)
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_follow_the_chain_rule_in_every_architecture(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = Policy(ARCHITECTURES[name]().eval(), build_tiny_tokenizer(), name)
    found = score_responses(policy, PROMPTS, RESPONSES)
    np.testing.assert_allclose(found.logps, score_one_by_one(policy, PROMPTS, RESPONSES), rtol=0, atol=1e-4)


def test_the_closing_tokens_count(policy):
    found = score_responses(policy, PROMPTS[:1], ["bridge"])
    ids = policy.tokenizer("bridge<|im_end|>\n")["input_ids"]
    assert found.n_tokens.tolist() == [len(ids)]


def test_progress_adds_up_to_the_rows(policy):
    done = []
    score_responses(policy, PROMPTS, RESPONSES, batch_tokens=100, progress=done.append)
    assert sum(done) == len(PROMPTS)
    assert len(done) > 1


def test_scoring_leaves_the_model_in_its_mode(policy_path):
    trained = load_policy(policy_path, device="cpu")
    trained.model.train()
    score_responses(trained, PROMPTS, RESPONSES)
    assert trained.model.training


def test_no_rows_give_no_scores(policy):
    assert score_responses(policy, [], []).logps.shape == (0,)


def test_a_prompt_that_fills_max_length_is_named(policy):
    prompts = ask("a", "b" * 100)
    length = len(tokenize_prompts(policy.tokenizer, prompts[1:2])[0])
    with pytest.raises(InputError, match=rf"row 1: the prompt has {length} tokens and max_length is {length};"):
        score_responses(policy, prompts, ["x", "y"], max_length=length)
    assert score_responses(policy, prompts, ["x", "y"], max_length=length + 1).n_tokens[1] == 1


def test_a_row_longer_than_the_context_is_named(tmp_path):
    short = load_policy(build_tiny_model(tmp_path / "short", context=48), device="cpu")
    with pytest.raises(InputError, match=r"row 1: .* context of .*short.* is 48"):
        score_responses(short, ask("a", "b"), ["x", "y" * 60])
    assert score_responses(short, ask("a", "b"), ["x", "y" * 60], max_length=48).n_tokens[1] < 48


def test_arguments_out_of_range_are_refused(policy):
    cases = [
        ({"batch_tokens": 0}, "batch_tokens is 0; allowed: a whole number >= 1"),
        ({"max_length": 1}, "max_length is 1; allowed: None or a whole number >= 2"),
        ({"responses": RESPONSES[:2]}, "responses has 2 rows; allowed: one per prompt, 6"),
    ]
    arguments = {"prompts": PROMPTS, "responses": RESPONSES}
    assert unrefused(lambda case: score_responses(policy, **{**arguments, **case}), cases) == {}


@pytest.mark.parametrize("max_length", [None, 60])
def test_scores_of_pairs_are_those_of_their_responses(policy, max_length):
    chosen, rejected = ([text * 3 for text in texts[:2]] for texts in (RESPONSES, REJECTED))
    pairs, done = pairs_dataset(PROMPTS[:2], chosen, rejected), []
    found = score_pairs(policy, pairs, max_length=max_length, progress=done.append)
    assert sum(done) == 4
    sides = ((found.chosen, found.chosen_tokens, chosen), (found.rejected, found.rejected_tokens, rejected))
    for logps, tokens, texts in sides:
        expected = score_responses(policy, PROMPTS[:2], texts, max_length=max_length)
        np.testing.assert_allclose(logps, expected.logps, rtol=0, atol=1e-4)
        assert tokens.tolist() == expected.n_tokens.tolist()
