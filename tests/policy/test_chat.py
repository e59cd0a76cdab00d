"""What the check of a chat template says, for templates of the kinds that are published."""

import pytest

from policy.test_tokens import TEMPLATES
from policy.trl_peer import pairs_dataset
from sgpo.errors import InputError
from sgpo.policy.chat import inspect_chat, rows_with_ends
from sgpo.policy.load import load_policy
from tiny_model import CHAT_TEMPLATE, build_tiny_model

HEADER, TURN = "<|im_start|>{{ m['role'] }}\n", "{{ m['content'] }}"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def template(turn, opening=OPEN):
    return f"{{% for m in messages %}}{turn}{{% endfor %}}{opening}"


@pytest.fixture
def policy(tmp_path):
    return load_policy(build_tiny_model(tmp_path / "model"), device="meta")


def notes(policy, chat_template, **options):
    policy.tokenizer.chat_template = chat_template
    return inspect_chat(policy, **options)


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"thinking"}))
def test_nothing_is_said_of_templates_that_do_what_training_assumes(policy, name):
    assert notes(policy, TEMPLATES[name]) == []


def test_an_end_token_of_the_checkpoint_ends_a_turn_as_well_as_the_tokenizers(policy):
    policy.tokenizer.eos_token = "<|pad|>"
    policy.model.generation_config.eos_token_id = [0, 2]
    assert notes(policy, CHAT_TEMPLATE) == []
    policy.model.generation_config.eos_token_id = 0
    with pytest.raises(
        InputError, match=r"closes a response with '<\|im_end\|>' \(2\), and generation ends only at .*pad"
    ):
        notes(policy, CHAT_TEMPLATE)
    policy.model.generation_config.eos_token_id = [2, 5000]
    [said] = notes(policy, CHAT_TEMPLATE)
    assert "the end tokens [5000] of the generation config are none of" in said
    policy.model.generation_config.eos_token_id = 0
    [said] = notes(policy, CHAT_TEMPLATE, generates=False)
    assert "none would end" in said
    # An end token after the one that closes the turn, as Phi-3 has it, ends the response too.
    assert notes(policy, template(HEADER + TURN + "<|im_end|>\n<|pad|>")) == []


@pytest.mark.parametrize(
    ("chat_template", "said"),
    [
        (
            template(HEADER + TURN + "\n"),
            r"closes a response with '\\n', which is no end token: generation ends only at .*im_end",
        ),
        (template(HEADER + TURN + "\n### End\n"), r"closes a response with '\\n### End\\n'"),
        (
            TEMPLATES["thinking"],
            r"ends a prompt in '<think></think>' for generation only: .*'A mason built it.<\|im_end",
        ),
        (
            template("<|{{ m['role'] }}|>" + TURN + "<|im_end|>", ""),
            r"no generation prompt: '<\|assistant\|>' is scored",
        ),
        (
            template(HEADER + "{{ m['content'].split('</think>')[-1] }}<|im_end|>"),
            r"leaves out <think>...</think>: what a response reasons there is not scored",
        ),
        (template(HEADER + TURN + "<|im_end|>", OPEN + "{% set d = strftime_now('%d %b %Y') %}"), "renders the date"),
        (
            "{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + CHAT_TEMPLATE,
            "refuses a second question, such as MT-Bench asks: one turn only",
        ),
        (template("{{ m['content'] + 1 }}"), "refuses a question and an answer, .*can only concatenate str"),
    ],
)
def test_what_differs_from_training_is_said_in_one_note(policy, chat_template, said):
    [note] = notes(policy, chat_template)
    with pytest.raises(InputError, match=said):
        raise InputError(note)


def test_a_closing_text_among_the_stop_texts_ends_a_response(policy):
    closed = template(HEADER + TURN + "\n### End\n")
    assert notes(policy, closed, stop=["### End"]) == []
    assert len(notes(policy, closed, stop=["Human:"])) == 1


def test_a_template_that_drops_the_answer_is_refused(policy):
    with pytest.raises(InputError, match="leaves out what the assistant says"):
        notes(policy, template("{% if m['role'] == 'user' %}" + TURN + "{% endif %}"))


def test_pairs_with_an_end_token_as_text_are_found_wherever_it_stands(policy):
    prompts = [[{"role": "user", "content": text}] for text in ("a", "b<|im_end|>", "c", "d", "<|im_start|>")]
    pairs = pairs_dataset(prompts, ["x", "x", "x<|im_end|>\n", "x", "x"], ["y", "y", "y", "y<|im_end|>", "im_end"])
    assert list(rows_with_ends(policy, pairs)) == [1, 2, 3]
