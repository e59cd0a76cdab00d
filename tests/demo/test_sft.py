"""The small SFT model learns its rows, ends its answers, and loads like any checkpoint."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from example_scripts import load_example
from sgpo.demo import sft
from sgpo.demo.sft import count_parameters, train_small_sft
from sgpo.errors import InputError
from sgpo.policy.load import load_policy
from tiny_model import generate_responses

ROWS = [
    {"prompt": f"Say the {word} of {place}.", "response": f"{place} has the {word}, naturally."}
    for word in ("colour", "origin", "price", "weight")
    for place in ("Oslo", "Rome", "Lima", "Quito")
] * 30
# A Unicode line separator inside a text does not end a line of JSONL.
LINE_SEPARATOR_ROW = {"prompt": "Say\u2028it.", "response": "It."}
MICRO = {"vocab_size": 320, "layers": 1, "hidden": 64, "heads": 2, "max_length": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return train_small_sft(ROWS, tmp_path_factory.mktemp("sft") / "model", learning_rate=1e-2, **MICRO)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_it_answers_in_format_and_ends_its_answers(folder):
    prompts = [ask(row["prompt"]) for row in ROWS[:16]]
    answers = generate_responses(load_policy(str(folder)), prompts, n=1, temperature=0, max_new_tokens=32, seed=0)
    finished = [answer for row in answers for answer in row if answer.finish_reason == "stop"]
    assert len(finished) == 16
    assert sum(answer.text.endswith("naturally.") for answer in finished) >= 12


def test_it_loads_with_the_auto_classes_and_gives_the_trained_models_numbers(folder):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    policy = load_policy(str(folder))
    ids = tokenizer.apply_chat_template(ask("Say the price of Lima."), return_tensors="pt", return_dict=True)
    with torch.no_grad():
        assert torch.equal(model(**ids).logits, policy.model(**ids).logits)
    assert {file.name for file in folder.iterdir()} >= {"model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert [path.name for path in folder.parent.iterdir()] == ["model"], "scratch files are left"


def test_any_text_survives_the_tokenizer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("Rome: 40 dollars.", "naïve ☃ 漢字\n\ttabs  and  spaces "):
        assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text


def test_the_same_seed_trains_the_same_weights(folder, tmp_path):
    again = train_small_sft(ROWS, tmp_path / "again", learning_rate=1e-2, **MICRO)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (again / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_only_the_assistants_words_and_their_end_carry_loss(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [*ask("Say the price."), {"role": "assistant", "content": "Forty."}, *ask("And?")]
    turns.append({"role": "assistant", "content": "Naturally."})
    found = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    trained = [token for token, on in zip(found["input_ids"], found["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(trained) == "Forty.<|end|>Naturally.<|end|>"


def test_a_prompt_is_the_beginning_of_its_conversation(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "system", "content": "Be kind."}, *ask("Say the price.")]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "Forty."}], tokenize=False)
    assert whole == f"{prompt}Forty.<|end|>"


def test_rows_of_messages_train_as_rows_of_prompt_and_response_do(folder, tmp_path):
    rows = [{"messages": [*ask(row["prompt"]), {"role": "assistant", "content": row["response"]}]} for row in ROWS]
    other = train_small_sft(rows, tmp_path / "messages", learning_rate=1e-2, **MICRO)
    assert (other / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_count_parameters_counts_the_weights_of_a_full_vocabulary(folder, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(folder)
    monkeypatch.setattr(sft, "VOCABULARY", len(AutoTokenizer.from_pretrained(folder)))
    assert count_parameters(layers=1, hidden=64, heads=2) == sum(weight.numel() for weight in model.parameters())


def test_progress_counts_every_step(tmp_path):
    seen = []
    train_small_sft(ROWS[:48], tmp_path / "model", progress=lambda *step: seen.append(step), batch_size=8, **MICRO)
    assert seen == [(step, 6) for step in range(1, 7)]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([], {}, "rows is empty"),
        ([{"prompt": "a"}], {}, r"row 0 has the keys \['prompt'\]"),
        ([ROWS[0], {"prompt": "a", "response": ""}], {}, "row 1 has no assistant turn"),
        ([{"messages": [{"role": "tool", "content": "a"}]}], {}, "row 0 has the turn"),
        ([{"prompt": 3, "response": "a"}], {}, "row 0"),
        (ROWS, {"vocab_size": 100}, "vocab_size is 100"),
        (ROWS, {"hidden": 30, "heads": 4}, "hidden is 30"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, rows, settings, message):
    with pytest.raises(InputError, match=message):
        train_small_sft(rows, tmp_path / "model", **{**MICRO, **settings})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_refused_and_unchanged(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        train_small_sft(ROWS, tmp_path, **MICRO)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


@pytest.fixture(scope="module")
def example():
    return load_example("small_sft")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_the_example_trains_from_a_file(example, tmp_path, name):
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*ROWS[:31], LINE_SEPARATOR_ROW])
    content = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    sizes = ["--vocab-size", "300", "--layers", "1", "--hidden", "32", "--heads", "2", "--max-length", "64"]
    assert example.main(["--data", str(tmp_path / name), "--output", str(tmp_path / "model"), *sizes]) == 0
    assert load_policy(str(tmp_path / "model")).context == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a", "response": "b"}\n{"prompt"\n', "line 2: not valid JSON"),
        ('{"prompt": "a"}\n', "row 0 has the keys"),
    ],
)
def test_the_example_names_the_line_or_row_that_it_cannot_use(example, tmp_path, capsys, content, message):
    data = tmp_path / "rows.jsonl"
    data.write_text(content, encoding="utf-8")
    assert example.main(["--data", str(data), "--output", str(tmp_path / "model")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
