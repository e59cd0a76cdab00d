"""Columns that are not used may hold anything; those that are used are named by file, row and column."""

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Json, Value

from refusals import unrefused
from sgpo.cli import main
from sgpo.errors import InputError
from sgpo.evaluate.alpaca import read_instructions
from sgpo.preferences.columns import from_objects, read_columns
from sgpo.preferences.layout import clean_pairs
from sgpo.preferences.source import load_pairs, load_prompts, load_rows
from sgpo.preferences.split_files import check_split, hash_rows

PAIRS = [{"prompt": f"{i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(4)]
NAN = float("nan")
# Four values of one column each, as JSON has them.
JSON_COLUMNS = {
    "integers beyond int64": [2**63, 2**70, -(2**64), None],
    "integers beyond any decimal": [10**80, 1, 2, 3],
    "large integers and fractions": [2**53 + 1, 1.5, 2**70, 0],
    "numbers and texts": [1, "1", None, 2.5],
    "truth and numbers": [True, 1, None, False],
    "texts and lists": ["a", ["b"], {"c": 1}, None],
    "objects whose values change their type": [{"score": "high"}, {"score": 1}, {"score": [2**70]}, {}],
    "objects of other keys": [{"a": 1}, {"b": "x"}, {}, None],
    "empty objects": [{}, {}, None, {}],
    "empty objects inside": [[{}], [], None, [{}, {}]],
    "mixed lists": [[1, "x", None], [[2]], [], [{"a": []}]],
    "empty lists": [[], [], None, []],
    "nulls": [None] * 4,
    "not a number": [NAN, 1.0, float("inf"), None],
    "not a number, inside": [[NAN, 1.5], [2], [], None],
    "half a character": ["\ud83d", "a", None, "\udc00"],
    "half a character, inside": [[{"text": "\ud83d"}], [], [], []],
    "dates": ["2026-01-31", 20260131, None, "now"],
    "a key for every row": [{f"id-{i}-{j}": j for j in range(100)} for i in range(4)],
    # TRL's names, and nothing in them.
    "tools": [None, [], None, "[]"],
    "images": [[], [], [], []],
}


def write(folder, rows, name="a.jsonl"):
    text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text)
    return folder / name


def with_column(values, name="extra"):
    return [{**pair, name: value} for pair, value in zip(PAIRS, values, strict=True)]


def assert_usable(place, folder):
    """The file is read as pairs and as prompts, and a split of it holds the very same rows."""
    assert [prompt[0]["content"] for prompt in load_prompts(place)["prompt"]] == [pair["prompt"] for pair in PAIRS]
    pairs = load_pairs(place)
    assert [[side[0]["content"] for side in pairs[name]] for name in ("chosen", "rejected")] == [
        [pair[name] for pair in PAIRS] for name in ("chosen", "rejected")
    ]
    assert main(["split", str(place), "--seeds", "2", "--pools", "2", "--output", str(folder)]) == 0
    check_split(folder)


def test_a_json_column_that_is_not_used_may_hold_anything(tmp_path, capsys):
    for number, (kind, values) in enumerate(JSON_COLUMNS.items()):
        name = kind if kind in ("tools", "images") else "extra"
        folder = tmp_path / str(number)
        folder.mkdir()
        lines, listed = (write(folder, with_column(values, name), file) for file in ("a.jsonl", "a.json"))
        assert_usable(lines, folder / "split")
        assert hash_rows(load_rows(listed)) == hash_rows(load_rows(lines)), kind


def test_values_come_back_as_they_are_in_the_file(tmp_path):
    """Integers beyond 64 bits are decimals; among other values, where no dataset has them, they are rounded."""
    for kind, values in JSON_COLUMNS.items():
        dataset = load_rows(write(tmp_path, with_column(values)))
        found = [row["extra"] for row in read_columns(dataset, ["extra"], None)]
        wanted = {
            "integers beyond any decimal": [1e80, 1, 2, 3],
            "large integers and fractions": [2**53 + 1, 1.5, 2.0**70, 0],
            "objects whose values change their type": [{"score": "high"}, {"score": 1}, {"score": [2.0**70]}, {}],
        }.get(kind, values)
        assert repr(found) == repr(wanted) or found == wanted, kind
        dataset.to_parquet(tmp_path / "a.parquet")
        again = load_rows(tmp_path / "a.parquet")
        assert hash_rows(again) == hash_rows(dataset), kind
        if "half" not in kind:
            dataset.map(lambda row: {"more": 1})[:]


ARROW_COLUMNS = {
    "uint64": pa.array([2**63, 2**64 - 1, 0, None], pa.uint64()),
    "decimal": pa.array([decimal.Decimal("1.20"), None, None, decimal.Decimal("9.99")]),
    "timestamps": pa.array([datetime.datetime(2026, 1, 31), None, None, None], pa.timestamp("us", "UTC")),
    "nanoseconds": pa.array([1, 2, 3, None], pa.timestamp("ns")),
    "dates": pa.array([datetime.date(2026, 1, 31), None, None, None]),
    "durations": pa.array([1, 2, None, 3], pa.duration("s")),
    "times": pa.array([1, 2, None, 3], pa.time64("us")),
    "bytes": pa.array([b"\xff", b"", None, b"a"]),
    "maps": pa.array([[("a", 1)], [("b", 2), ("a", 3)], [], None], pa.map_(pa.string(), pa.int64())),
    "maps of texts": pa.array([[("a", "b")], [], None, []], pa.map_(pa.string(), pa.string())),
    "a dictionary": pa.array(["a", "b", None, "a"]).dictionary_encode(),
    "half precision": pa.array([1, 2, None, 3], pa.float16()),
    "large lists": pa.array([["a"], [], None, ["b"]], pa.large_list(pa.string())),
    "list views": pa.array([["a"], [], None, ["b"]], pa.list_view(pa.string())),
    "text views": pa.array(["a", "b", None, "c"], pa.string_view()),
    "empty objects": pa.array([{}, {}, None, {}], pa.struct([])),
    "nulls": pa.nulls(4),
    "months": pa.array([(1, 2, 3)] * 4, pa.month_day_nano_interval()),
}


def test_a_column_of_a_table_that_is_not_used_may_have_any_type(tmp_path, capsys):
    unwritable = {"empty objects", "months", "list views"}
    for number, (kind, values) in enumerate(ARROW_COLUMNS.items()):
        table = pa.Table.from_pylist(PAIRS).append_column("extra", values)
        folder = tmp_path / str(number)
        folder.mkdir()
        with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        assert_usable(folder / "a.arrow", folder / "split of Arrow")
        if kind not in unwritable:
            pq.write_table(table, folder / "a.parquet")
            assert_usable(folder / "a.parquet", folder / "split of Parquet")


def test_a_type_may_change_after_the_first_thousand_rows(tmp_path):
    rows = [{"prompt": f"{i}?", "chosen": "a", "rejected": "b", "extra": i} for i in range(3000)]
    rows[2500]["extra"] = {"late": True}
    assert len(load_pairs(write(tmp_path, rows))) == 3000
    rows[2700]["chosen"] = 7
    with pytest.raises(InputError, match=r"a\.json row 2700: chosen is 7; allowed: a string or a list"):
        load_pairs(write(tmp_path, rows, "a.json"))


def test_one_column_may_mix_texts_and_messages(tmp_path):
    turns = {side: [{"role": "assistant", "content": PAIRS[1][side]}] for side in ("chosen", "rejected")}
    mixed = [PAIRS[0], {**PAIRS[1], **turns}, {**PAIRS[2], "prompt": [{"role": "user", "content": "2?"}]}, PAIRS[3]]
    assert load_pairs(write(tmp_path, mixed))[:] == load_pairs(write(tmp_path, PAIRS))[:]


WRONG = {
    "prompt": [3, 2**70, True, {"a": 1}, ["a"], [{"role": "user", "content": 2**70 + 0.5}], {"role": "user"}],
    "chosen": [3, 1.5, False, {}, [{"role": "assistant"}], [{"from": "gpt", "value": ["a"]}], "\ud83d"],
    "rejected": [{"role": "judge", "content": "x"}, [["a"]], [None], [{"role": "assistant", "content": "\udc00"}]],
}


def test_a_value_of_a_used_column_is_named_with_file_row_and_column(tmp_path):
    def load(case):
        column, value = case
        load_pairs(write(tmp_path, [*PAIRS[:3], {**PAIRS[3], column: value}], "a.json"))

    cases = [((column, value), rf"a\.json row 3: {column}\b") for column, values in WRONG.items() for value in values]
    assert unrefused(load, cases) == {}


def test_half_a_character_is_damage_and_not_a_row_to_drop(tmp_path):
    dataset = load_rows(write(tmp_path, [*PAIRS, {**PAIRS[0], "chosen": "a\ud83d"}]))
    with pytest.raises(InputError, match=r"f row 4: chosen: not valid text: '\\ud83d' is half of a surrogate pair"):
        clean_pairs(dataset, "f")
    file = write(tmp_path, [{"instruction": "a"}, {"instruction": "b\udc00"}], "a.json")
    with pytest.raises(InputError, match=r"a\.json row 1: instruction: not valid text"):
        read_instructions(file)


def test_what_arrow_holds_keeps_its_type():
    rows = [{"a": 1, "b": 1.5, "c": "x", "d": True, "e": [1], "f": {"g": "h"}}, {"a": None}, {}]
    kinds = {"a": "int64", "b": "float64", "c": "string", "d": "bool"}
    features = from_objects(rows).features
    assert {name: features[name].dtype for name in kinds} == kinds
    assert features["f"] == {"g": Value("string")}
    assert from_objects([{"a": 1}, {"a": "x"}]).features["a"] == Json()
