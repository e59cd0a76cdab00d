"""What other programs write is read whatever they end lines with, and what nobody reads is refused by its place."""

import gzip
import json

import pytest

from refusals import unrefused
from sgpo.errors import InputError
from sgpo.store.files import is_unicode, name_row, name_rows, parse_yaml, read_json, read_objects, read_yaml

ROWS = [{"a": "é 🌉", "b": [1, None]}, {"a": "\u2028", "b": []}]
LINES = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in ROWS)


def as_windows(text):
    return ("\ufeff" + text.replace("\n", "\r\n")).encode()


def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing(tmp_path):
    def values(path):
        return [value for _, value in read_objects(path)]

    for name, read, text, packed in (
        ("a.json", values, json.dumps(ROWS, indent=1), False),
        ("a.jsonl", values, f"{LINES}\n", False),
        ("a.jsonl.gz", values, LINES, True),
        ("b.json", read_json, json.dumps(ROWS[0], indent=1), False),
        ("c.yaml", read_yaml, "a: é\nb:\n- 1\n- null\n", False),
    ):
        found = []
        for content in (text.encode(), as_windows(text), as_windows(text).rstrip()):
            (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
            found.append(read(tmp_path / name))
        assert found == [found[0]] * 3, name
        assert found[0] in (ROWS, ROWS[0], {"a": "é", "b": [1, None]})


def test_what_is_no_json_for_any_program_is_refused_by_its_place(tmp_path):
    def read(case):
        name, text = case
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        return (read_json if name == "o.json" else read_objects)(tmp_path / name)

    deep, long = "[" * 50_000, "9" * 5000
    wrong = [
        (deep, "not valid JSON: maximum recursion depth"), ('{"a":' * 50_000,
        "not valid JSON: maximum recursion depth"),
        (f'{{"a": {long}}}', "not valid JSON: Exceeds the limit"), ('{"a": "\ud83d"}', "not valid UTF-8"),
        ('{"a": 1} {"b": 2}', "not valid JSON: Extra data"), ("\x00", "not valid JSON"), ("3", "allowed: a"),
    ]  # fmt: skip
    cases = [((name, text), rf"{name}.*{said}") for name in ("a.json", "o.json", "a.jsonl") for text, said in wrong]
    assert unrefused(read, cases) == {}
    lines = [(("a.jsonl", f"{LINES}{text}\n{LINES}"), rf"a\.jsonl line 3: {said}") for text, said in wrong[:4]]
    assert unrefused(read, lines) == {}
    (tmp_path / "a.json").write_text(LINES, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json line 2: .*; JSON Lines end in \.jsonl\.$"):
        read_objects(tmp_path / "a.json")


def test_what_is_no_yaml_is_refused_in_one_line_whatever_pyyaml_raises():
    texts = (
        "a: [", "a: b: c", "- !!python/object:os.system x", "a: 2020-99-99", "a: 2020-01-01 99:00:00",
        "a: !!bool maybe",
        "a: !!int x", "a: !!float x", "a: !!timestamp x", "a: !!binary é", "a: 0b_", f"a: {'9' * 5000}", "a: *b",
        "[" * 5000, "{" * 5000, "a: \x00", "? [a]: b\n? {c}: d", "<<: 3", "a: 1\n--- \nb: 2", "@", "\ud83d: 1",
    )  # fmt: skip
    refused = unrefused(
        lambda text: parse_yaml(text, "r.yaml"), [(text, r"^r\.yaml: not valid YAML: ") for text in texts]
    )
    assert refused == {}


def test_half_of_a_surrogate_pair_is_no_unicode():
    assert all(map(is_unicode, ["", "a", "é", "🌉", "\u2028\x00\uffff", json.loads('"\\ud83c\\udf09"')]))
    assert not any(map(is_unicode, [json.loads(f'"x{half}y"') for half in ("\\ud83d", "\\udc00", "\\udf09\\ud83c")]))


def test_rows_are_named_by_line_in_json_lines_and_by_number_elsewhere(tmp_path):
    lines = "\n" + LINES.replace("\n", "\n\n")
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "folder.jsonl"):
        path, is_lines = tmp_path / name, name.startswith("a.jsonl")
        names = name_rows(path, 2)
        assert names == [name_row(path, row) for row in range(2)]
        assert names == [f"{path} {place}" for place in (("line 2", "line 4") if is_lines else ("row 0", "row 1"))]
