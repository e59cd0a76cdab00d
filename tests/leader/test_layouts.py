"""`sgpo train` tokenizes what `trl dpo` tokenizes, token by token, for every layout that TRL takes."""

import json
from itertools import combinations

import pytest
from datasets import Dataset, load_dataset
from trl import DPOConfig, DPOTrainer

from leader.batches import ROWS
from refusals import unrefused
from sgpo.errors import InputError
from sgpo.leader.script import as_trl_reads, train
from sgpo.leader.trainer import SGPOTrainer
from sgpo.preferences.columns import from_objects
from sgpo.preferences.layout import to_pairs
from sgpo.preferences.source import load_rows
from tiny_model import build_tiny_model, build_tiny_tokenizer

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
# It shows tools, arguments of the row, and which keys a message has.
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% if brief is defined %}{{ brief }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message | list | join }} {{ message['role'] }}\n"
    "{{ message['content'] }}{{ message['tool_calls'] | default('') }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def turn(role, content):
    return {"role": role, "content": content}


def rows(make):
    return [dict(zip(("prompt", "chosen", "rejected"), make(*row), strict=True)) for row in ROWS[:3]]


def explicit(prompt, chosen, rejected):
    return [turn("user", prompt)], [turn("assistant", chosen)], [turn("assistant", rejected)]


def tool(name, **properties):
    parameters = {"type": "object", "properties": {key: {"type": value} for key, value in properties.items()}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def without_prompt(pairs, join):
    return [{side: join(row["prompt"], row[side]) for side in ("chosen", "rejected")} for row in pairs]


TEXT = rows(lambda prompt, chosen, rejected: (f"Q: {prompt}\nA:", f" {chosen}", f" {rejected}"))
CHAT = rows(explicit)
SYSTEM = [{**row, "prompt": [turn("system", "Be brief."), *row["prompt"]]} for row in CHAT]
CALL = {**turn("assistant", ""), "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": "{}"}}]}
LAYOUTS = {
    "text": TEXT,
    "text that ends in white space": [{**row, "prompt": row["prompt"] + " "} for row in TEXT],
    "text with the token that ends it": [{**row, "chosen": row["chosen"] + "<|im_end|>"} for row in TEXT],
    "text, implicit prompt": without_prompt(TEXT, str.__add__),
    "Anthropic's dialogues": without_prompt(
        rows(lambda prompt, *sides: (f"\n\nHuman: {prompt}\n\nAssistant:", *(f" {side}" for side in sides))),
        str.__add__,
    ),
    "conversational": CHAT,
    "conversational, implicit prompt": without_prompt(CHAT, list.__add__),
    "system turns": SYSTEM,
    "system turns, implicit prompt": without_prompt(SYSTEM, list.__add__),
    "several turns": [{**row, "prompt": [*row["prompt"], *row["chosen"], *row["prompt"]]} for row in CHAT],
    "sides that differ before their last turn": without_prompt(
        [{**row, "chosen": [*row["chosen"], *row["prompt"], *row["rejected"]]} for row in CHAT], list.__add__
    ),
    "messages with other keys": [{**CHAT[0], "prompt": [{**turn("user", "So?"), "name": "Ann"}]}, *CHAT[1:]],
    "tools of one kind": [{**row, "tools": [tool("add", a="number")]} for row in CHAT],
    "tools of every row its own": [
        {**row, "tools": tools}
        for row, tools in zip(CHAT, ([tool("add", a="number")], [], [tool("find", text="string")]), strict=True)
    ],
    "tools as JSON text": [{**row, "tools": json.dumps([tool("add", a="number")])} for row in CHAT],
    "tools in one row": [{**CHAT[0], "tools": [tool("add", a="number")]}, *CHAT[1:]],
    "tools that are called": [
        {**row, "prompt": [*row["prompt"], CALL, turn("tool", "3")], "tools": [tool("add", a="number")]}
        for row in CHAT
    ],
    "no tools": [{**row, "tools": None} for row in CHAT],
    "arguments of the template": [
        {**row, "chat_template_kwargs": kwargs}
        for row, kwargs in zip(CHAT, ({"brief": True}, {"brief": False}, {}), strict=True)
    ],
    "other columns": [{**row, "id": index, "meta": [{}, index, "x"][index]} for index, row in enumerate(CHAT)],
}  # fmt: skip


def prepared(kind, dataset, tokenizer, args):
    """What a trainer makes of a dataset: the ids of every row."""
    trainer = kind.__new__(kind)
    trainer._tokenizer = tokenizer
    found = trainer._prepare_dataset(dataset, tokenizer, args, "train")
    return [found[name][:] for name in IDS]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_tokens_of_every_layout_are_trls(tmp_path, make_arguments):
    """TRL loads the file by itself, as `trl dpo` does; from Python both trainers get one dataset."""
    chat, base = build_tiny_tokenizer(), build_tiny_tokenizer(chat_template=False)
    chat.chat_template = TEMPLATE
    theirs, ours = make_arguments(DPOConfig, max_length=None), make_arguments(max_length=None)
    wrong = []
    for name, pairs in LAYOUTS.items():
        file = tmp_path / f"{len(wrong)}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in pairs))
        tokenizer = base if isinstance(pairs[0]["chosen"], str) else chat
        loaded = load_rows(file)
        wanted = prepared(DPOTrainer, load_dataset("json", data_files=str(file), split="train"), tokenizer, theirs)
        found = {
            "sgpo train": prepared(SGPOTrainer, as_trl_reads(loaded, "f"), tokenizer, ours),
            "SGPOTrainer": prepared(SGPOTrainer, Dataset(loaded.data.table), tokenizer, ours),
        }
        wrong += [f"{name}: {who}" for who, ids in found.items() if ids != wanted]
    assert wrong == []


def test_the_layouts_differ_in_their_tokens(make_arguments):
    """Else the test above would not see whether tools, arguments and the keys of messages reach the template."""
    tokenizer, args = build_tiny_tokenizer(), make_arguments(DPOConfig, max_length=None)
    tokenizer.chat_template = TEMPLATE
    names = ("conversational", "tools of one kind", "arguments of the template", "messages with other keys")
    found = [prepared(DPOTrainer, from_objects(LAYOUTS[name]), tokenizer, args)[0] for name in names]
    assert all(one != other for one, other in combinations(found, 2))


def test_the_command_trains_a_base_model_without_a_template_on_texts(tmp_path, monkeypatch, make_arguments):
    """On the ids, and to the loss, of TRL's own trainer."""
    base, file = build_tiny_model(tmp_path / "base", chat_template=False), tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in TEXT))
    trainers = []

    class Kept(SGPOTrainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            trainers.append(self)

    monkeypatch.setattr("sgpo.leader.script.SGPOTrainer", Kept)
    options = {"output_dir": tmp_path / "out", "use_cpu": True, "bf16": False, "max_steps": 2, "logging_steps": 1}
    options |= {"report_to": "none", "save_strategy": "no", "dataloader_pin_memory": False, "max_length": 256}
    line = {"model_name_or_path": base, "dataset_name": file, "radius": 0, "dtype": "float32", **options}
    assert train([text for name, value in line.items() for text in (f"--{name}", str(value))]) == 0
    theirs = DPOTrainer(
        str(base), args=make_arguments(DPOConfig, **options, learning_rate=1e-6, activation_checkpointing=None),
        train_dataset=Dataset.from_list(TEXT),
    )  # fmt: skip
    theirs.train()
    (ours,) = trainers
    for name in IDS:
        assert ours.train_dataset[name][:] == theirs.train_dataset[name][:]
    losses = [[record["loss"] for record in one.state.log_history if "loss" in record] for one in (ours, theirs)]
    assert losses[0] == losses[1] and len(losses[0]) == 2


CONVERTED = {
    "a prompt that the responses repeat": [
        {**row, **{side: row["prompt"] + row[side] for side in ("chosen", "rejected")}} for row in CHAT
    ],
    "UltraFeedback": [
        {**row, **{side: [*explicit(*ROWS[0])[0], *row[side]] for side in ("chosen", "rejected")}, "prompt": ROWS[0][0]}
        for row in CHAT[:1]
    ],
    "ShareGPT": [
        {name: [{"from": turn["role"], "value": turn["content"]} for turn in turns] for name, turns in row.items()}
        for row in CHAT
    ],
    "another column for the prompt": [
        {"instruction": row["prompt"], **{side: row[side] for side in ("chosen", "rejected")}} for row in TEXT
    ],
}


def test_what_trl_cannot_take_becomes_messages():
    for name, pairs in CONVERTED.items():
        dataset = from_objects(pairs)
        found = as_trl_reads(dataset, "f")
        assert found[:] == to_pairs(dataset, "f").select_columns(["prompt", "chosen", "rejected"])[:], name


def test_the_columns_that_the_trainer_uses_are_kept_and_no_others():
    used = {"weight": 1.0, "source": "a", "ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0, "ref_fingerprint": "x"}
    row = {**CHAT[0], **used, "images": [], "tools": None, "id": 1}
    assert as_trl_reads(from_objects([row]), "f").column_names == [*CHAT[0], *used]


REFUSED = {
    "equal responses": (
        [TEXT[0], {**TEXT[1], "chosen": TEXT[1]["rejected"]}],
        "f row 1: chosen and rejected are",
    ),
    "a number among texts": ([TEXT[0], {**TEXT[1], "prompt": 3}], "f row 1: prompt is 3; allowed: a string or a list"),
    "a number beside messages": ([CHAT[0], {**CHAT[1], "chosen": 7}], "f row 1: chosen is 7; allowed: a string or"),
    "an object beside messages": ([CHAT[0], {**CHAT[1], "chosen": {}}], r"f row 1: chosen has a message \{\}"),
    "no turns": ([CHAT[0], {**CHAT[1], "prompt": []}], r"f row 1: prompt is \[\]; allowed: a string or a list"),
    "arguments of the template in some rows": (
        [{**CHAT[0], "chat_template_kwargs": {"brief": True}}, CHAT[1]],
        "f row 1: chat_template_kwargs is null",
    ),
    "a text that is missing": ([TEXT[0], {**TEXT[1], "rejected": None}], "f row 1: rejected is None"),
    "tools for texts": ([TEXT[0], {**TEXT[1], "tools": [tool("a")]}], "f row 1: 'tools' has content.*no chat template"),
    "images": ([CHAT[0], {**CHAT[1], "images": ["cat.png"]}], "f row 1: 'images' has content.*text only"),
    "half a character": ([TEXT[0], {**TEXT[1], "chosen": "\ud83d"}], "f row 1: chosen: not valid text"),
    "no pairs": ([{"text": "a"}], r"f has the columns \['text'\] and no 'chosen'"),
    "one side": ([{"prompt": "a", "chosen": "b"}], "and no 'rejected'"),
}


def test_a_row_that_the_trainer_cannot_take_is_named():
    cases = [(name, message) for name, (_, message) in REFUSED.items()]
    assert unrefused(lambda name: as_trl_reads(from_objects(REFUSED[name][0]), "f"), cases) == {}


def test_numbers_of_another_type_are_named_by_row(make_trainer):
    for column, others in (("weight", {}), ("ref_chosen_logps", {"ref_rejected_logps": -1.0})):
        dataset = from_objects([{**row, column: value, **others} for row, value in zip(CHAT, (1, "x", 2), strict=True)])
        with pytest.raises(InputError, match=f"row 1: {column} is 'x'; allowed: a finite number"):
            make_trainer(dataset=dataset, radius=0.0)
