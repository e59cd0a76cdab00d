import pytest

from policy.conversations import PROMPTS, RESPONSES, ask
from policy.trl_peer import prepare_with_trl
from sgpo.errors import InputError
from sgpo.policy import tokens
from sgpo.policy.tokens import tokenize_prompts, tokenize_responses
from tiny_model import CHAT_TEMPLATE, build_tiny_tokenizer

TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    # Zephyr: the end-of-sequence token as text, a newline after it.
    "zephyr": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    # Llama 3: content is trimmed.
    "trimming": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n\n{{ m['content'] | trim }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
    ),
    # Mistral: no header before the answer.
    "headless": (
        "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
        "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
    ),
    # Gemma 4 and reasoning models: the generation prompt says more than the finished conversation does.
    "thinking": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think></think>{% endif %}"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_are_those_that_trl_trains_on(name, tmp_path):
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = TEMPLATES[name]
    rejected = [f"No, {response}" for response in RESPONSES]
    if name == "headless":
        # TRL cuts a pair at the earlier of its two splits; texts with one first token keep the splits equal.
        rejected = [response + "?" for response in RESPONSES]
    rows = prepare_with_trl(tokenizer, PROMPTS, RESPONSES, rejected, tmp_path)
    for side, responses in (("chosen_ids", RESPONSES), ("rejected_ids", rejected)):
        mine = tokenize_responses(tokenizer, PROMPTS, responses)
        assert [row.prompt_ids for row in mine] == rows["prompt_ids"][:]
        assert [row.response_ids for row in mine] == rows[side][:]


def test_one_response_is_tokenized_as_in_a_batch(monkeypatch):
    monkeypatch.setattr(tokens, "_CHUNK", 4)
    tokenizer = build_tiny_tokenizer()
    batch = tokenize_responses(tokenizer, PROMPTS, RESPONSES)
    alone = [tokenize_responses(tokenizer, [row[0]], [row[1]])[0] for row in zip(PROMPTS, RESPONSES, strict=True)]
    assert alone == batch


def test_a_response_follows_its_prompt_where_the_template_keeps_prefixes():
    tokenizer = build_tiny_tokenizer()
    prompt_ids, response_ids = tokenize_responses(tokenizer, [PROMPTS[0]], ["The river."])[0]
    assert prompt_ids == tokenize_prompts(tokenizer, PROMPTS[:1])[0]
    assert tokenizer.decode(response_ids) == "The river.<|im_end|>\n"


@pytest.mark.parametrize("chunk", [1, 2, 1000])
def test_a_template_that_refuses_a_prompt_is_reported_with_its_row(chunk, monkeypatch):
    monkeypatch.setattr(tokens, "_CHUNK", chunk)
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    prompts = [*ask("a", "b"), [{"role": "system", "content": "s"}, {"role": "user", "content": "c"}]]
    with pytest.raises(InputError, match=r"row 2: .*no system turn"):
        tokenize_responses(tokenizer, prompts, ["x", "y", "z"])


def test_where_tokens_merge_across_the_boundary_trl_cuts_a_pair_at_the_earlier_split(tmp_path):
    tokenizer = build_tiny_tokenizer(corpus=["a\n\n\nb"] * 50, vocab=262)
    prompts, merged, plain = PROMPTS[:1], ["\n\nIt is."], ["It is."]
    alone = tokenize_responses(tokenizer, [prompts[0]], merged[:1])[0]
    assert alone.prompt_ids == tokenize_prompts(tokenizer, prompts[:1])[0][:-1]
    row = prepare_with_trl(tokenizer, prompts, merged, plain, tmp_path)[0]
    assert (row["prompt_ids"], row["chosen_ids"]) == alone
    beside = tokenize_responses(tokenizer, [prompts[0]], plain[:1])[0]
    assert row["prompt_ids"] + row["rejected_ids"] == beside.prompt_ids + beside.response_ids
    assert len(row["rejected_ids"]) == len(beside.response_ids) + 1
