import numpy as np
import pytest
import torch

from refusals import unrefused
from sgpo.errors import InputError
from sgpo.policy.embed import embed_prompts
from sgpo.policy.load import load_policy
from sgpo.policy.tokens import tokenize_prompts

PROMPTS = [
    [{"role": "user", "content": "Why?"}],
    [{"role": "user", "content": "Please tell me about the old bridge in the north of the town. " * 3}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the colour of the sky?"}],
    [{"role": "user", "content": "Über 🌉"}],
    [{"role": "user", "content": "Why?"}],
]


def last_hidden_state(policy, messages):
    """One prompt at a time, through the public interface of transformers."""
    ids = tokenize_prompts(policy.tokenizer, [messages])[0]
    with torch.no_grad():
        output = policy.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return output.hidden_states[-1][0, -1].numpy()


@pytest.mark.parametrize("batch_tokens", [1, 60, 8192])
def test_an_embedding_is_the_last_hidden_state_of_its_prompt(policy, batch_tokens):
    embeddings = embed_prompts(policy, PROMPTS, batch_tokens=batch_tokens)
    assert embeddings.dtype == np.float32
    expected = np.stack([last_hidden_state(policy, messages) for messages in PROMPTS])
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    np.testing.assert_allclose(embeddings, expected, atol=2e-5)


def test_the_last_token_opens_the_answer(policy):
    """The state that embeds a prompt is the one that predicts the first token of the answer."""
    embeddings = embed_prompts(policy, PROMPTS[:1])
    rendered = policy.tokenizer.apply_chat_template(PROMPTS[0], tokenize=False, add_generation_prompt=True)
    assert rendered.endswith("assistant\n")
    with torch.no_grad():
        logits = policy.model(**policy.tokenizer(rendered, return_tensors="pt")).logits[0, -1]
        predicted = policy.model.lm_head(torch.from_numpy(embeddings[0]))
    torch.testing.assert_close(predicted, logits, atol=1e-4, rtol=1e-4)


def test_a_model_in_training_embeds_without_dropout_and_stays_in_training(policy_path):
    policy = load_policy(policy_path, device="cpu")
    expected = embed_prompts(policy, PROMPTS)
    for layer in policy.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    policy.model.train()
    assert np.array_equal(embed_prompts(policy, PROMPTS), expected)
    assert policy.model.training


def test_embeddings_on_disk_are_those_in_memory(policy, tmp_path):
    stored = embed_prompts(policy, PROMPTS, out=tmp_path / "embeddings.npy")
    assert isinstance(stored, np.memmap)
    assert np.array_equal(stored, embed_prompts(policy, PROMPTS))
    assert np.array_equal(stored, np.load(tmp_path / "embeddings.npy"))
    assert [file.name for file in tmp_path.iterdir()] == ["embeddings.npy"]


def test_an_interrupted_embedding_leaves_no_file(policy, tmp_path):
    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_prompts(policy, PROMPTS, out=tmp_path / "embeddings.npy", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_prompt_once(policy):
    counts = []
    embed_prompts(policy, PROMPTS, batch_tokens=60, progress=counts.append)
    assert sum(counts) == len(PROMPTS) and len(counts) > 1


def test_a_prompt_beyond_the_context_is_named(policy):
    with pytest.raises(InputError, match=r"row 1: the prompt has \d+ tokens and the context of .* is 256"):
        embed_prompts(policy, [PROMPTS[0], [{"role": "user", "content": "x" * 100_000}]])


def test_arguments_out_of_range_are_refused(policy):
    cases = [({"prompts": []}, "there are no prompts"), ({"batch_tokens": 0}, "batch_tokens is 0")]
    assert unrefused(lambda case: embed_prompts(policy, **{"prompts": PROMPTS, **case}), cases) == {}
