import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from refusals import unrefused
from sgpo.config import AnnotationConfig, EvaluateConfig
from sgpo.errors import InputError
from sgpo.preferences.annotators.open import open_annotator, open_reward
from sgpo.preferences.annotators.reward_model import RewardModel
from tiny_annotators import build_classifier_with_code, build_tiny_classifier, build_tiny_encoder
from tiny_model import build_tiny_model

PROMPTS = [
    [{"role": "user", "content": "What is the colour of the sky?"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Größe? 🌉"},
    ],
]
RESPONSES = [["It is blue in the morning and red at night.", "", "No."], ["a", "A cat sleeps on the roof."]]
FLAT = [(prompt, text) for prompt, texts in zip(PROMPTS, RESPONSES, strict=True) for text in texts]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return build_tiny_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return build_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@torch.no_grad()
def one_by_one(path, encodings, label=0):
    """The model's own scores, each input by itself and without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    return [
        model(**{name: torch.tensor([ids]) for name, ids in one.items()}).logits[0, label].item() for one in encodings
    ]


def conversations(path, rows=FLAT):
    tokenizer = AutoTokenizer.from_pretrained(path)
    return [
        {
            "input_ids": tokenizer.apply_chat_template(
                [*prompt, {"role": "assistant", "content": text}], tokenize=True, return_dict=True
            )["input_ids"]
        }
        for prompt, text in rows
    ]


@pytest.mark.parametrize("batch_tokens", [1, 100, 8192])
def test_rewards_are_the_scores_of_the_conversations_one_by_one(path, batch_tokens):
    found = RewardModel(path, batch_tokens=batch_tokens)(PROMPTS, RESPONSES)
    wanted = one_by_one(path, conversations(path))
    np.testing.assert_allclose(found.rewards, wanted, atol=1e-5)
    assert np.ptp(wanted) > 0.1
    assert found.counts == {"cut_prompts": 0, "too_long": 0, "not_finite": 0}


def test_a_model_without_a_pad_token_scores_a_batch_as_it_scores_one(tmp_path):
    # Padding with the end-of-sequence token, which ends a conversation here, would change where the score is read.
    path = build_tiny_classifier(tmp_path, pad=False)
    assert AutoTokenizer.from_pretrained(path).pad_token is None
    template = AutoTokenizer.from_pretrained(path).chat_template.replace("<|im_end|>\n", "<|im_end|>")
    (path / "chat_template.jinja").write_text(template)
    encodings = conversations(path)
    assert {one["input_ids"][-1] for one in encodings} == {AutoTokenizer.from_pretrained(path).eos_token_id}
    np.testing.assert_allclose(RewardModel(path)(PROMPTS, RESPONSES).rewards, one_by_one(path, encodings), atol=1e-5)


def test_a_model_that_pads_with_another_token_than_its_tokenizer_is_read_by_its_own(tmp_path):
    path = build_tiny_classifier(tmp_path)
    config = json.loads((path / "config.json").read_text())
    newline = AutoTokenizer.from_pretrained(path)("\n")["input_ids"][-1]
    (path / "config.json").write_text(json.dumps({**config, "pad_token_id": newline}))
    # Its conversations end in this token, so the model reads them one token earlier.
    np.testing.assert_allclose(
        RewardModel(path)(PROMPTS, RESPONSES).rewards, one_by_one(path, conversations(path)), atol=1e-5
    )


def test_the_chosen_label_is_the_reward(tmp_path):
    path = build_tiny_classifier(tmp_path, labels=3)
    for label in range(3):
        wanted = one_by_one(path, conversations(path), label)
        np.testing.assert_allclose(RewardModel(path, label=label)(PROMPTS, RESPONSES).rewards, wanted, atol=1e-5)


def test_without_template_or_separator_prompt_and_response_are_two_lines(tmp_path):
    path = build_tiny_classifier(tmp_path, chat_template=False)
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompts = ["What is the colour of the sky?"] * 3 + [
        "system: Be brief.\n\nuser: Hello\n\nassistant: Hi.\n\nuser: Größe? 🌉"
    ] * 2
    texts = [f"{prompt}\n{text}" for prompt, (_, text) in zip(prompts, FLAT, strict=True)]
    wanted = one_by_one(path, [{"input_ids": tokenizer(text)["input_ids"]} for text in texts])
    np.testing.assert_allclose(RewardModel(path)(PROMPTS, RESPONSES).rewards, wanted, atol=1e-5)


def test_without_a_template_a_separator_makes_two_segments(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    prompts, responses = PROMPTS[:1], RESPONSES[:1]
    encodings = [dict(tokenizer(prompts[0][0]["content"], text)) for text in responses[0]]
    wanted = one_by_one(encoder, encodings)
    assert {segment for one in encodings for segment in one["token_type_ids"]} == {0, 1}
    np.testing.assert_allclose(RewardModel(encoder)(prompts, responses).rewards, wanted, atol=1e-5)


def test_the_beginning_of_a_long_prompt_is_cut_and_counted(path):
    long = [{"role": "user", "content": "One two three four five six seven. " * 4 + "What is the colour of the sky?"}]
    text = "It is blue."
    ids = conversations(path, [(long, text)])[0]["input_ids"]
    found = RewardModel(path, max_length=40)([long], [[text, "ok"]])
    assert found.counts == {"cut_prompts": 2, "too_long": 0, "not_finite": 0}
    assert found.rewards[0] == pytest.approx(one_by_one(path, [{"input_ids": ids[-40:]}])[0], abs=1e-5)


def test_a_response_that_leaves_the_prompt_no_room_is_not_ranked(path):
    found = RewardModel(path, max_length=30)(PROMPTS[:1], [["x" * 60, "No."]])
    assert found.counts["too_long"] == 1
    assert np.isnan(found.rewards).tolist() == [True, False]


@pytest.mark.parametrize(
    ("texts", "nan", "said"),
    [
        (["x" * 60] * 6 + ["No."] * 4, [], "6 of 10 inputs of the reward model failed (too_long 6)"),
        (["x" * 60] * 10, [], "10 of 10 inputs of the reward model failed (too_long 10)"),
        (["x" * 60] + ["No."] * 8 + ["Yes"], ["Yes"], None),
        (
            ["x" * 60] * 2 + ["No."] * 7 + ["Yes"],
            ["Yes"],
            "3 of 10 outputs of the reward model failed (too_long 2, not",
        ),
    ],
)
def test_the_limit_holds_for_all_responses_without_a_reward(path, monkeypatch, texts, nan, said):
    """What is too long and what is not finite count together, as a share of all responses of a call."""
    tokenizer, score = AutoTokenizer.from_pretrained(path), RewardModel._score

    def spoilt(self, inputs):
        ends = [any(text in tokenizer.decode(one.ids) for text in nan) for one in inputs]
        return np.where(ends, np.nan, score(self, inputs))

    monkeypatch.setattr(RewardModel, "_score", spoilt)
    if said is None:
        found = RewardModel(path, max_length=30)(PROMPTS[:1], [texts])
        assert np.isnan(found.rewards).sum() == found.counts["too_long"] + found.counts["not_finite"] == 2
        return
    with pytest.raises(InputError, match=re.escape(said)):
        RewardModel(path, max_length=30)(PROMPTS[:1], [texts])
    assert np.isnan(RewardModel(path, max_length=30, max_failed=1)(PROMPTS[:1], [texts]).rewards).sum() == int(
        said.split()[0]
    )


def test_a_prompt_of_100_000_characters_is_cut_like_any_other(path):
    prompt = [{"role": "user", "content": "a b" * 33_333 + "?"}]
    found = RewardModel(path)([prompt, prompt], [["yes", "no"], ["", "yes"]])
    assert found.counts == {"cut_prompts": 4, "too_long": 0, "not_finite": 0}
    assert found.rewards[0] == pytest.approx(found.rewards[3], abs=1e-6)
    assert np.isfinite(found.rewards).all()


def test_two_segments_keep_their_special_tokens_when_the_prompt_is_cut(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    prompt, text = "z" * 30 + "abc", "blue"
    inner = tokenizer(text, add_special_tokens=False)["input_ids"]
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    room = 20 - 3 - len(inner)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    wanted = {
        "input_ids": [cls, *head[-room:], sep, *inner, sep],
        "token_type_ids": [0] * (room + 2) + [1] * (len(inner) + 1),
    }
    found = RewardModel(encoder, max_length=20)([[{"role": "user", "content": prompt}]], [[text, "y" * 40]])
    assert found.counts == {"cut_prompts": 1, "too_long": 1, "not_finite": 0}
    assert found.rewards[0] == pytest.approx(one_by_one(encoder, [wanted])[0], abs=1e-5)
    assert np.isnan(found.rewards[1])


def test_inputs_are_cut_at_the_positions_of_the_model_unless_told_otherwise(encoder, path):
    long = [[{"role": "user", "content": "z" * 300}]]
    assert RewardModel(encoder)(long, [["a", "b"]]).counts["cut_prompts"] == 2
    assert RewardModel(path)(long, [["a", "b"]]).counts["cut_prompts"] == 2
    with pytest.raises(InputError, match="max_length is 300; allowed: at most 256, the positions of"):
        RewardModel(path, max_length=300)


def test_the_opening_token_stays_in_front_of_a_cut_prompt(path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.bos_token = "<|pad|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    build_tiny_classifier(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prompt = [{"role": "user", "content": "z" * 80}]
    ids = conversations(tmp_path, [(prompt, "a")])[0]["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    found = RewardModel(tmp_path, max_length=30)([prompt], [["a", "b"]])
    assert found.rewards[0] == pytest.approx(one_by_one(tmp_path, [{"input_ids": ids[:1] + ids[-29:]}])[0], abs=1e-5)


def test_progress_adds_up_to_the_prompts_and_nothing_is_no_error(path):
    seen = []
    model = RewardModel(path, batch_tokens=60)
    model(PROMPTS, RESPONSES, progress=seen.append)
    assert sum(seen) == pytest.approx(len(PROMPTS))
    assert model([], []).rewards.shape == (0,)


def test_a_language_model_is_no_reward_model(tmp_path):
    # transformers would load it with a random head.
    for device in ("cpu", "meta"):
        with pytest.raises(InputError, match=r"lacks 1 of its weights \(first: score.weight\)"):
            RewardModel(build_tiny_model(tmp_path), device=device)


def test_pickled_weights_are_refused(tmp_path):
    path = build_tiny_classifier(tmp_path)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"cannot be loaded: .*safetensors"):
        RewardModel(path)


def test_a_score_that_is_no_number_is_named(tmp_path):
    path = build_tiny_classifier(tmp_path)
    weights = load_file(path / "model.safetensors")
    weights["score.weight"] = torch.full_like(weights["score.weight"], torch.inf)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=r"5 of 5 outputs of the reward model failed \(not_finite 5; such as (nan|-?inf) for row 0"
    ):
        RewardModel(path)(PROMPTS, RESPONSES)


def test_an_argument_out_of_range_is_named(path):
    cases = [
        ({"label": 1}, "label is 1; allowed: 0 to 0"),
        ({"label": -1}, "label is -1"),
        ({"max_length": 1}, "max_length is 1; allowed: a whole number >= 2"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"batch_tokens": "8k"}, "batch_tokens is '8k'; allowed: a whole number"),
        ({"dtype": "int8"}, "dtype is 'int8'; allowed: 'float32', 'bfloat16', 'float16' or 'auto'"),
        ({"device": "abacus"}, "device is 'abacus'; allowed: 'cpu', 'cuda'"),
    ]
    assert unrefused(lambda case: RewardModel(path, **case), cases) == {}


def test_several_outputs_need_a_label(tmp_path):
    with pytest.raises(InputError, match="has 2 outputs; allowed: one, or `label` to choose"):
        RewardModel(build_tiny_classifier(tmp_path, labels=2))


def annotating(path, options):
    return open_annotator(AnnotationConfig(annotator="reward_model", model=str(path), options=options))


def evaluating(path, options):
    settings = EvaluateConfig(kind="reward", prompts="p", model=str(path), options=options)
    return open_reward(settings.model, None, **settings.read_options.model_dump())


@pytest.mark.parametrize("opened", [annotating, evaluating])
def test_code_of_a_reward_model_runs_only_if_its_own_option_asks_for_it(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = build_classifier_with_code(tmp_path / "model")
    for options in ({}, {"trust_remote_code": False}):
        with pytest.raises(InputError, match=r"contains custom code .* Its trust_remote_code allows that\."):
            opened(path, options)
    assert not (tmp_path / "modules").exists()
    plain = RewardModel(build_tiny_encoder(tmp_path / "plain"))(PROMPTS, RESPONSES)
    np.testing.assert_array_equal(opened(path, {"trust_remote_code": True})(PROMPTS, RESPONSES).rewards, plain.rewards)
