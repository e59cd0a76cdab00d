"""Batches whose rows change, for models that keep keys and values and models that keep something else."""

import pytest
import torch
from transformers import GenerationConfig, Lfm2Config, Lfm2ForCausalLM, MistralConfig, MistralForCausalLM

from policy.conversations import PROMPTS
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.kv_cache import join_caches, keep_rows, open_cache
from sgpo.policy.load import Policy
from sgpo.policy.sampling import Sampling, prompt_seeds
from sgpo.policy.tokens import tokenize_prompts
from tiny_model import build_tiny_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SEEDS = prompt_seeds(3, len(PROMPTS))


def build(kind, config, **options):
    tokenizer = build_tiny_tokenizer()
    torch.manual_seed(0)
    settings = {"vocab_size": len(tokenizer), "num_key_value_heads": 1, "initializer_range": 0.3, **SIZES, **options}
    model = kind(config(**settings, bos_token_id=None, eos_token_id=2, pad_token_id=0)).eval()
    # Many tokens end a response, so that rows end at different times.
    model.generation_config.eos_token_id = list(range(2, 60))
    return Policy(model, tokenizer, "tiny")


@pytest.fixture(scope="module")
def sliding():
    """Its window is shorter than most prompts."""
    return build(MistralForCausalLM, MistralConfig, sliding_window=8)


@pytest.fixture(scope="module")
def convolution():
    """Every second layer keeps the state of a short convolution."""
    return build(Lfm2ForCausalLM, Lfm2Config, layer_types=["conv", "full_attention"])


def greedy(policy, messages, count):
    """Tokens that transformers generates for a single prompt."""
    ids = torch.tensor(tokenize_prompts(policy.tokenizer, [messages]))
    config = GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=list(range(2, 60)), pad_token_id=0)
    with torch.no_grad():
        return policy.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[
            0, ids.shape[1] :
        ]


def test_a_window_is_kept_when_rows_change(sliding):
    """Rows of different lengths, in batches smaller than their number, give what each gives in its own batch."""
    assert open_cache(sliding.model) is not None
    found = TransformersGenerator(sliding, batch_size=3).generate(PROMPTS, SEEDS, Sampling(1, 0.0, max_new_tokens=24))
    for messages, [response] in zip(PROMPTS, found, strict=True):
        expected = greedy(sliding, messages, 24)
        assert response.n_tokens == len(expected)
        text = expected[:-1] if response.finish_reason == "stop" else expected
        assert response.text == sliding.tokenizer.decode(text, skip_special_tokens=True)


def test_a_model_that_keeps_more_than_keys_and_values_reads_its_prefixes_again(convolution):
    assert open_cache(convolution.model) is None
    sampling = Sampling(n=3, temperature=1.0, max_new_tokens=16)
    expected = TransformersGenerator(convolution, batch_size=1).generate(PROMPTS, SEEDS, sampling)
    assert {response.finish_reason for row in expected for response in row} == {"stop", "length"}
    assert TransformersGenerator(convolution, batch_size=5).generate(PROMPTS, SEEDS, sampling) == expected


def test_reading_again_and_keeping_the_cache_give_the_same_text(sliding, monkeypatch):
    sampling = Sampling(n=4, temperature=1.0, max_new_tokens=16)
    kept = TransformersGenerator(sliding, batch_size=6).generate(PROMPTS, SEEDS, sampling)
    monkeypatch.setattr("sgpo.policy.generate.open_cache", lambda model: None)
    assert TransformersGenerator(sliding, batch_size=6).generate(PROMPTS, SEEDS, sampling) == kept


def test_no_token_is_read_twice(sliding, monkeypatch):
    """Every prompt token goes through the model once per response, and then one token per step."""
    read, forward = [], sliding.model.forward

    def counted(input_ids, **inputs):
        read.append(input_ids.shape)
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(sliding.model, "forward", counted)
    sampling = Sampling(n=2, temperature=1.0, max_new_tokens=16)
    TransformersGenerator(sliding, batch_size=1).generate(PROMPTS, SEEDS, sampling)
    prompts = [len(tokenize_prompts(sliding.tokenizer, [messages])[0]) for messages in PROMPTS]
    assert sorted(length for _, length in read if length > 1) == sorted(prompts * 2)


def test_caches_join_and_shrink_as_their_rows_do(sliding):
    def filled(rows, columns):
        cache = open_cache(sliding.model)
        for layer in range(2):
            cache.update(torch.randn(rows, 1, columns, 4), torch.randn(rows, 1, columns, 4), layer)
        return cache, [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]

    (upper, above), (lower, below) = filled(3, 5), filled(2, 7)
    join_caches(upper, lower)
    keep_rows(upper, [4, 1], 6)
    for layer, old, new in zip(upper.layers, above, below, strict=True):
        for found, one, other in zip((layer.keys, layer.values), old, new, strict=True):
            assert torch.equal(found[0], other[1][:, 1:])
            assert torch.equal(found[1], torch.cat([torch.zeros(1, 1, 4), one[1]], dim=1))
