import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2Model

from refusals import unrefused
from sgpo.errors import InputError
from sgpo.preferences.annotators.pair_ranker import PairRanker
from tiny_annotators import PREFIXES, build_tiny_pair_ranker

PROMPTS = [
    [{"role": "user", "content": "What is the colour of the sky?"}],
    [{"role": "user", "content": "Write a poem."}],
    [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Größe? 🌉"},
    ],
]
RESPONSES = [
    ["It is blue in the morning.", "No."],
    ["A cat sleeps on the roof of a house.", "", "Stone", "é"],
    ["a", "b"],
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return build_tiny_pair_ranker(tmp_path_factory.mktemp("ranker"))


@pytest.fixture(scope="module")
def ranker(path):
    return PairRanker(path)


class Plain:
    """The published forward pass, one comparison at a time, over the tokens of its own `tokenizer.encode`."""

    def __init__(self, path):
        weights = load_file(path / "model.safetensors")
        config = json.loads((path / "config.json").read_text())
        self.encoder = DebertaV2Model(DebertaV2Config(**config)).eval()
        self.encoder.load_state_dict(_part(weights, "pretrained_model."))
        tasks = config["n_tasks"]
        self.head = nn.Sequential(nn.Identity(), nn.Linear(64, 32), nn.Tanh(), nn.Identity(), nn.Linear(32, tasks))
        self.head.load_state_dict(_part(weights, "head_layer."))
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.ids = [config[key] for key in PREFIXES]

    @torch.no_grad()
    def logit(self, prompt, first, second, source_max_length=1224, candidate_max_length=412):
        marker, *markers = PREFIXES.values()
        ids = self.tokenizer.encode(marker + prompt, max_length=source_max_length, truncation=True)
        room = (source_max_length + 2 * candidate_max_length - len(ids)) // 2
        for marker, text in zip(markers, (first, second), strict=True):
            ids = ids + self.tokenizer.encode(marker + text, max_length=room, truncation=True)
        ids = torch.tensor([ids])
        states = self.encoder(input_ids=ids).last_hidden_state[0]
        source, left, right = (states[(ids[0] == prefix).nonzero()[0, 0]] for prefix in self.ids)
        return (self.head(torch.cat([source, left])) - self.head(torch.cat([source, right]))).mean().item()


def _part(weights, prefix):
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def by_hand(plain, prompt, texts, **lengths):
    both = [
        [(plain.logit(prompt, a, b, **lengths) - plain.logit(prompt, b, a, **lengths)) / 2 for b in texts]
        for a in texts
    ]
    return [np.mean([both[one][other] for other in range(len(texts)) if other != one]) for one in range(len(texts))]


def test_rewards_are_mean_advantages_of_the_published_network_one_comparison_at_a_time(ranker, path):
    plain = Plain(path)
    prompts = [PROMPTS[0][0]["content"], "Write a poem.", "user: Hello\n\nassistant: Hi.\n\nuser: Größe? 🌉"]
    wanted = np.concatenate([by_hand(plain, *row) for row in zip(prompts, RESPONSES, strict=True)])
    found = ranker(PROMPTS, RESPONSES)
    np.testing.assert_allclose(found.rewards, wanted, atol=2e-5)
    assert np.ptp(wanted) > 0.1
    assert found.counts == {"comparisons": 1 + 6 + 1, "cut_prompts": 0, "cut_responses": 0, "not_finite": 0}


def test_several_outputs_of_the_head_are_averaged(tmp_path):
    path = build_tiny_pair_ranker(tmp_path, seed=1, tasks=3)
    wanted = by_hand(Plain(path), PROMPTS[0][0]["content"], RESPONSES[0])
    np.testing.assert_allclose(PairRanker(path)(PROMPTS[:1], RESPONSES[:1]).rewards, wanted, atol=2e-5)


def test_swapping_two_responses_swaps_their_rewards_and_two_rewards_cancel(ranker):
    straight = ranker(PROMPTS[:1], RESPONSES[:1]).rewards
    swapped = ranker(PROMPTS[:1], [RESPONSES[0][::-1]]).rewards
    np.testing.assert_allclose(swapped, straight[::-1], atol=1e-6)
    assert straight[0] == -straight[1] != 0


def test_the_order_of_responses_moves_no_reward(ranker):
    order = [2, 0, 3, 1]
    straight = ranker(PROMPTS[1:2], RESPONSES[1:2]).rewards
    turned = ranker(PROMPTS[1:2], [[RESPONSES[1][place] for place in order]]).rewards
    np.testing.assert_allclose(turned, straight[order], atol=1e-5)
    assert abs(straight.sum()) < 1e-5


@pytest.mark.parametrize("batch_tokens", [1, 90, 100_000])
def test_batches_change_rewards_by_rounding_only(ranker, path, batch_tokens):
    found = PairRanker(path, batch_tokens=batch_tokens)(PROMPTS, RESPONSES)
    np.testing.assert_allclose(found.rewards, ranker(PROMPTS, RESPONSES).rewards, atol=1e-5)


def test_equal_responses_are_no_better_than_each_other(ranker):
    rewards = ranker(PROMPTS[:1], [["same", "same", "other"]]).rewards
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-5)
    assert rewards[2] == pytest.approx(-2 * rewards[0], abs=1e-5)


def test_a_response_that_contains_a_prefix_changes_no_position(ranker, path):
    # The published code searches for the token and would find two; here each segment's own is used.
    texts = ["<|candidate1|> me <|source|>", "plain"]
    wanted = by_hand(Plain(path), "Hello", texts)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert PREFIXES["cand1_prefix_id"] in tokenizer.tokenize(texts[0])
    np.testing.assert_allclose(ranker([[{"role": "user", "content": "Hello"}]], [texts]).rewards, wanted, atol=2e-5)


def test_long_texts_are_cut_as_published_and_counted(path):
    short, long = "abc", "x" * 60
    lengths = {"source_max_length": 16, "candidate_max_length": 12}
    texts = [short, long, long + "yz"]
    found = PairRanker(path, **lengths)([[{"role": "user", "content": long}]], [texts])
    assert found.counts == {"comparisons": 3, "cut_prompts": 1, "cut_responses": 2, "not_finite": 0}
    np.testing.assert_allclose(found.rewards, by_hand(Plain(path), long, texts, **lengths), atol=2e-5)
    # The last two differ only after the cut.
    assert found.rewards[1] == pytest.approx(found.rewards[2], abs=1e-6)


def test_room_that_a_short_prompt_leaves_goes_to_the_responses(path):
    ranker = PairRanker(path, source_max_length=60, candidate_max_length=10)
    texts = ["x" * 12, "x" * 13]
    assert ranker([[{"role": "user", "content": "Hi"}]], [texts]).counts["cut_responses"] == 0
    assert ranker([[{"role": "user", "content": "x" * 60}]], [texts]).counts["cut_responses"] == 2


def test_a_single_response_cannot_be_ranked(ranker):
    found = ranker(PROMPTS[:2], [["alone"], ["a", "b"]])
    assert np.isnan(found.rewards).tolist() == [True, False, False]


def test_nothing_to_rank_is_no_error(ranker):
    assert ranker([], []).rewards.shape == (0,)


def test_progress_adds_up_to_the_prompts(ranker):
    seen = []
    ranker(PROMPTS, RESPONSES, progress=seen.append)
    assert sum(seen) == pytest.approx(len(PROMPTS))


def change_config(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def without_prefix(path):
    content = json.loads((path / "config.json").read_text())
    del content["cand2_prefix_id"]
    (path / "config.json").write_text(json.dumps(content))


def without_head(path):
    weights = load_file(path / "model.safetensors")
    save_file(_part_but(weights, "head_layer.4.weight"), path / "model.safetensors", metadata={"format": "pt"})


def _part_but(weights, name):
    return {key: value for key, value in weights.items() if key != name}


def as_pickle(path):
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


BROKEN = {
    "no prefix": (without_prefix, "lacks cand2_prefix_id; allowed: the layout of llm-blender/PairRM-hf"),
    "another model": (lambda path: change_config(path, model_type="bert"), "model_type 'bert'"),
    "no head": (without_head, r"lacks 1 of its weights \(first: head_layer.4.weight\)"),
    "another token": (
        lambda path: change_config(path, cand1_prefix_id=9),
        "cand1_prefix_id is 9, to the tokenizer the added token None",
    ),
    "token beyond the vocabulary": (
        lambda path: change_config(path, cand1_prefix_id=9999),
        "cand1_prefix_id is 9999, .* None",
    ),
    "pickled weights": (as_pickle, "cannot be loaded: .*safetensors"),
}


def test_what_is_not_a_pair_ranker_is_refused(tmp_path):
    def open_damaged(name):
        folder = build_tiny_pair_ranker(tmp_path / name)
        BROKEN[name][0](folder)
        PairRanker(folder)

    assert unrefused(open_damaged, [(name, message) for name, (_, message) in BROKEN.items()]) == {}


def test_an_argument_out_of_range_is_named(path):
    cases = [
        ({"source_max_length": 3}, "source_max_length is 3; allowed: a whole number >= 4"),
        ({"candidate_max_length": 0}, "candidate_max_length is 0"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"dtype": "int8"}, "dtype is 'int8'; allowed: 'float32', 'bfloat16', 'float16' or 'auto'"),
        ({"device": "abacus"}, "device is 'abacus'; allowed: 'cpu', 'cuda'"),
    ]
    assert unrefused(lambda case: PairRanker(path, **case), cases) == {}


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist; allowed: a directory or a Hugging Face Hub id"):
        PairRanker(tmp_path / "nowhere")
