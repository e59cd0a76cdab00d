"""Ways in which a file comes to hold what no writer wrote: by bytes, by tokens of its text, by its structure."""

import gzip
import io
import json
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

LONG, DEEP = 50_000, 20_000
# As they stand in JSON and YAML. Python's json reads most of them, and not all of them are values that a reader wants.
TEXTS = (
    '""', '" "', '"\\ud83d"', '"\\udc00x"', '"\\u0000"', '"\\ud83c\\udf09"', '"\\u2028\\u0085"', '"\\r\\n"', '"1"',
    '"nan"', '"null"',
    f'"{"x" * LONG}"', '"../../x"', '"\\u0000/x"', '"\\ufeff"', '"\\u001b[31m[/b]"', '"{{ x }} {prompt}"',
    '"Verdict: A"',
)  # fmt: skip
NUMBERS = (
    "-1", "0", "1", "2", "3.5", "-0.0", "1e999", "-1e999", "1e-999", "NaN", "Infinity", "-Infinity", "0.1", "1e300",
    "99", "true",
    str(10**30), str(10**400), "9" * 5000, str(2**63), str(-(2**63)), "1e400", "5e-324", "-3.5",
)  # fmt: skip
TOKENS = (
    *TEXTS, *NUMBERS, "null", "false", "[]", "{}", "[[]]", "[null]", '[{"role": "user"}]', '{"a": {"b": [1, null]}}',
    "[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP, "[" * 900 + "]" * 900,
    '{"role": "user", "content": "\\ud83d"}', '[{"role": "tool", "content": ""}]',
)  # fmt: skip
# What only YAML reads as something of its own.
YAML_TOKENS = (
    "&a [*a]", "&a {b: *a}", "*b", "!!python/object:os.system x", "!!binary x", "!!int x", "!!float x",
    "!!bool x",
    "!!timestamp x", "!!set {a}", "2020-99-99", "2020-01-01", "2020-01-01 99:00:00", "0b_", "0x_", "0o9", "1:99",
    ".inf",
    ".nan", "~", "{1: 2}", "{[a]: b}", "{null: 1}", "{<<: 3}", "{<<: [1]}", "- - -", "? x", "@", "%", "|", "!<x> y",
    "1_0",
    "{a: 1, a: 2}", "!!omap [a]", "!!pairs [[a, b]]", "=", "&a", '"\\ud83d"', '"\\xff"',
)  # fmt: skip
BYTES = (
    b"\x00", b"\xff", b"\xc3", b"\xed\xa0\xbd", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\r", b"\n", b"\n\n",
    b"\x1b[31m",
    b"\xe2\x80\xa8", b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b"-", b"#", b"x" * LONG, b"\x00" * 99, b"\t",
    b"'",
)  # fmt: skip
_MARK, _TWICE = "MARK%dKRAM", "TWICE"
_SCALAR = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d[\d.eE+-]*|\b(?:true|false|null)\b')

Mutate = Callable[[random.Random, bytes], bytes]


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Damage that knows nothing of the format."""
    start = rng.randrange(len(content) + 1)
    end = min(start + rng.choice((1, 2, 8, 64, len(content))), len(content))
    span = content[start:end]
    kind = rng.randrange(10)
    if kind == 0:
        return content[:start]
    if kind == 1:
        return content[:start] + content[end:]
    if kind == 2:
        return content[:end] + span * rng.choice((1, 2, 50)) + content[end:]
    if kind == 3:
        return content[:start] + rng.choice(BYTES) + content[rng.choice((start, end)) :]
    if kind == 4:
        other = rng.randrange(len(content) + 1)
        return content[:other] + span + content[other:]
    if kind == 5:
        whole = (content.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + content, content + b"\n\n", content.rstrip(b"\n"))
        return rng.choice(
            (
                *whole,
                b"\n",
                b"",
                b"\x00" * len(content),
                gzip.compress(content),
                content.decode("utf-8", "replace").encode("utf-16"),
            )
        )
    flipped = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8)) if content else 0):
        place = rng.randrange(len(flipped))
        flipped[place] = rng.randrange(256) if kind < 8 else flipped[place] ^ (1 << rng.randrange(8))
    return bytes(flipped)


def mutate_tokens(rng: random.Random, content: bytes, tokens: tuple[str, ...] = TOKENS) -> bytes:
    """Another token in the place of a text, number or name."""
    found = list(_SCALAR.finditer(content))
    if not found:
        return mutate_bytes(rng, content)
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(tokens).encode() + content[match.end() :]


def change(rng: random.Random, value: Any, tokens: tuple[str, ...], used: list[str]) -> Any:
    """A value with one key, item or value dropped, renamed, repeated, moved or retyped, at any depth.

    Tokens that are no values of Python are marked with their places in `used`.
    """
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        changed = dict(value) if isinstance(value, dict) else list(value)
        if rng.random() < 0.65:
            changed[key] = change(rng, value[key], tokens, used)
        else:
            _rearrange(rng, changed, key)
        return changed
    kind = rng.randrange(12)
    if kind == 0:
        return [value]
    if kind == 1:
        return {"a": value}
    if kind == 2:
        return str(value)
    # Half of them of the same type, which a reader may take.
    same = TEXTS if isinstance(value, str) else NUMBERS if isinstance(value, (int, float)) else tokens
    used.append(rng.choice(same if rng.random() < 0.5 else tokens))
    return _MARK % (len(used) - 1)


def _rearrange(rng: random.Random, changed: dict | list, key: Any) -> None:
    kind = rng.randrange(5)
    if isinstance(changed, list):
        other = rng.randrange(len(changed))
        if kind == 0:
            changed.clear()
        elif kind == 1:
            changed.insert(other, changed[key])
        elif kind == 2:
            changed[key], changed[other] = changed[other], changed[key]
        elif kind == 3:
            changed.extend([changed[key]] * 20)
        else:
            del changed[key]
        return
    other = rng.choice(list(changed))
    if kind == 0:
        changed[other] = changed[key]
    elif kind == 1:
        changed[rng.choice(("", "x", f"{key}\ud83d", f"{key} ", f"{key}\x00"))] = changed.pop(key)
    elif kind == 2:
        # A key that occurs twice: the renderer removes the mark.
        changed[f"{_TWICE}{key}"] = changed[other]
    elif kind == 3:
        changed[key], changed[other] = changed[other], changed[key]
    else:
        del changed[key]


def _render(rng: random.Random, value: Any, dump: Callable[[Any], str], tokens: tuple[str, ...]) -> bytes:
    used: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 4))):
        value = change(rng, value, tokens, used)
    text = dump(value).replace(_TWICE, "")
    for place, token in enumerate(used):
        mark = _MARK % place
        text = text.replace(f'"{mark}"', token).replace(mark, token)
    return text.encode("utf-8", "surrogatepass")


def _dump_lines(rows: Any) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows) if isinstance(rows, list) else json.dumps(rows)


def json_file(rng: random.Random, content: bytes) -> bytes:
    """A mutated JSON file."""
    if rng.random() < 0.7:
        return _render(rng, json.loads(content), json.dumps, TOKENS)
    return rng.choice((mutate_bytes, mutate_tokens))(rng, content)


def json_lines(rng: random.Random, content: bytes) -> bytes:
    """A mutated file of JSON Lines."""
    if rng.random() < 0.7:
        return _render(rng, [json.loads(line) for line in content.splitlines()], _dump_lines, TOKENS)
    return rng.choice((mutate_bytes, mutate_tokens))(rng, content)


def gzipped_lines(rng: random.Random, content: bytes) -> bytes:
    """Mutated inside or outside of the compression."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, content)
    return gzip.compress(json_lines(rng, gzip.decompress(content)), 1)


def yaml_file(rng: random.Random, content: bytes) -> bytes:
    """A mutated YAML file."""
    tokens = TOKENS + YAML_TOKENS
    if rng.random() < 0.5:
        return _render(rng, yaml.safe_load(content), lambda value: yaml.safe_dump(value, width=10**6), tokens)
    if rng.random() < 0.5:
        return mutate_bytes(rng, content)
    lines = content.decode().splitlines(keepends=True)
    place = rng.randrange(len(lines))
    key = lines[place].partition(":")[0]
    lines[place] = rng.choice((f"{key}: {rng.choice(tokens)}\n", f"{rng.choice(tokens)}: 1\n", lines[place] * 2))
    return "".join(lines).encode()


def text_file(rng: random.Random, content: bytes) -> bytes:
    """A mutated file of text or numbers."""
    return rng.choice((mutate_bytes, mutate_tokens))(rng, content)


def jinja_file(rng: random.Random, content: bytes) -> bytes:
    """A mutated template."""
    tokens = (
        "{{ 1 / 0 }}", "{{ x.y.z }}", "{% for a in 3 %}{% endfor %}", "{{ 'a' * 99 }}", "{% set x = messages[9] %}",
        "{{ messages[0].content.nope() }}", "{% if", "{{", "}}", "{#", "{{ raise_exception('no') }}",
        "{% include 'x' %}",
        "{{ messages + 1 }}", "{{ strftime_now('%Y') }}", "{{ 'x' | nope }}", "{{ none.a }}", "{{ range(10 ** 9) }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ 9 ** 999999 }}", "{{ ''.__class__ }}", "{% break %}",
    )  # fmt: skip
    if rng.random() < 0.4:
        return mutate_bytes(rng, content)
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(tokens).encode() + content[place:]


def parquet_file(rng: random.Random, content: bytes) -> bytes:
    """A mutated Parquet file: its bytes, its footer, or a table of other columns."""
    return _table_file(
        rng, content, lambda source: pq.read_table(source), lambda table, sink: pq.write_table(table, sink)
    )


def arrow_file(rng: random.Random, content: bytes) -> bytes:
    """A mutated Arrow file with a footer."""
    return _table_file(rng, content, lambda source: pa.ipc.open_file(source).read_all(), _write_arrow(pa.ipc.new_file))


def arrow_stream(rng: random.Random, content: bytes) -> bytes:
    """A mutated Arrow stream."""
    return _table_file(
        rng, content, lambda source: pa.ipc.open_stream(source).read_all(), _write_arrow(pa.ipc.new_stream)
    )


def _write_arrow(new: Any) -> Callable[[pa.Table, Any], None]:
    def write(table: pa.Table, sink: Any) -> None:
        with new(sink, table.schema) as writer:
            writer.write_table(table)

    return write


def _table_file(rng: random.Random, content: bytes, read: Any, write: Any) -> bytes:
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            return mutate_bytes(rng, content)
        # Where the formats keep their lengths and types.
        half = rng.choice((len(content) // 2, 64, 500))
        return content[:-half] + mutate_bytes(rng, content[-half:])
    sink = io.BytesIO()
    try:
        write(change_table(rng, read(io.BytesIO(content))), sink)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return mutate_bytes(rng, content)
    return sink.getvalue()


def change_table(rng: random.Random, table: pa.Table) -> pa.Table:
    """A table with a column dropped, renamed, retyped, or of other values; or without rows or metadata."""
    place = rng.randrange(table.num_columns)
    name, column, rows = table.column_names[place], table.column(place), table.num_rows
    kind = rng.randrange(9)
    if kind == 0:
        return table.drop_columns([name])
    if kind == 1:
        names = list(table.column_names)
        names[place] = rng.choice(("", "x", rng.choice(names), f"{name}\x00", "prompt", "messages", "images"))
        return table.rename_columns(names)
    if kind == 2:
        return table.slice(0, rng.choice((0, 1)))
    if kind == 3:
        return table.replace_schema_metadata(rng.choice((None, {"huggingface": "{"}, {"sgpo": "[]"}, {"sgpo": "\xff"})))
    if kind == 4:
        return pa.concat_tables([table] * rng.choice((2, 3)))
    if kind == 5:
        values = column.to_pylist()
        values[rng.randrange(rows)] = rng.choice((None, values[0]))
        return table.set_column(place, name, pa.array(values, column.type))
    return table.set_column(place, name, _odd_column(rng, column, rows))


def _odd_column(rng: random.Random, column: pa.ChunkedArray, rows: int) -> pa.Array | pa.ChunkedArray:
    numbers = pa.array(range(rows))
    odd: tuple[Callable[[], Any], ...] = (
        lambda: column.cast(pa.large_string()),
        lambda: column.cast(pa.binary()),
        lambda: column.cast(pa.string()),
        lambda: column.dictionary_encode(),
        lambda: column.cast(pa.float16()),
        lambda: pa.nulls(rows),
        lambda: numbers,
        lambda: pa.array([2**63] * rows, pa.uint64()),
        lambda: numbers.cast(pa.timestamp("ns")),
        lambda: numbers.cast(pa.date32(), safe=False) if rows else numbers,
        lambda: numbers.cast(pa.duration("s")),
        lambda: numbers.cast(pa.decimal128(38, 2)),
        lambda: pa.array([rng.choice((float("nan"), float("inf"), 1e300, 5e-324)) for _ in range(rows)]),
        lambda: pa.array([bool(row % 2) for row in range(rows)]),
        lambda: pa.array([[row] * (row % 3) for row in range(rows)]),
        lambda: pa.array([[[{"role": "user", "content": None}]]] * rows),
        lambda: pa.array([[{"role": "user", "content": "x", "extra": row}] for row in range(rows)]),
        lambda: pa.array([[{"content": "x", "role": rng.choice(("user", "", None))}] for _ in range(rows)]),
        lambda: pa.array([[("role", "user")]] * rows, pa.map_(pa.string(), pa.string())),
        lambda: pa.array([{}] * rows, pa.struct([])),
        lambda: pa.array([b"\xff\xfe"] * rows, pa.binary()).view(pa.string()),
        lambda: pa.array(["", " ", "\x00", "x" * LONG][:1] * rows),
        lambda: pa.array(["x"] * rows, pa.string_view()),
        lambda: pa.array([b"12345678"] * rows, pa.binary(8)),
        lambda: pa.array([[1.0, 2.0]] * rows, pa.list_(pa.float64(), 2)),
    )
    return rng.choice(odd)()


def npy_file(rng: random.Random, content: bytes) -> bytes:
    """A mutated .npy file: its bytes, its header, or an array of another type or shape."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, content)
    if rng.random() < 0.5:
        head = content[:128].decode("latin-1")
        shape = rng.choice(
            ("(-1,)", "(10**12,)", "(1000000000000,)", "()", "(2, 2)", "(1e3,)", "None", "(0,)", "(True,)")
        )
        described = rng.choice(
            ("'|O'", "'<U9'", "'>f8'", "'<f2'", "'x'", "[('a','<f8')]", "'<M8[s]'", "'<c16'", "'|V8'", "3")
        )
        head = (
            re.sub(r"'shape': \([^)]*\)", f"'shape': {shape}", head)
            if rng.random() < 0.5
            else re.sub(r"'descr': '[^']*'", f"'descr': {described}", head)
        )
        body = head[10:].rstrip(" \n").encode("latin-1").ljust(117)[:117] + b"\n"
        return content[:10] + body + content[128:]
    arrays = (
        np.array([1, None], object), np.array(["a"]), np.array([1 + 2j]), np.zeros((2, 2)), np.array(3.0),
        np.array([True]),
        np.array(["2020"], "M8[s]"), np.zeros(3, [("a", "f8")]), np.array([1, 2], "f2"), np.array([]),
        np.array([np.nan]),
        np.array([1e300, -1e300]), np.array([2**63], "u8"), np.array([1, 2], ">i4"), np.array([1.5], np.longdouble),
    )  # fmt: skip
    sink = io.BytesIO()
    rng.choice((np.save, np.savez))(sink, rng.choice(arrays))
    return sink.getvalue()
