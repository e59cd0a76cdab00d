"""Columns of any type: what no dataset can hold becomes JSON, so that only the columns that are used must be right."""

import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Json, LargeList, List

from sgpo.errors import InputError
from sgpo.store.files import name_row

# Objects with more keys than this in all, such as identifiers, would become a table of little but nulls.
_MOST_KEYS = 256
_CHUNK = 1000
_INT64 = range(-(2**63), 2**63)


def from_objects(rows: Sequence[dict[str, Any]]) -> Dataset:
    """JSON objects as a dataset; a column that Arrow cannot hold, or would change, has the type `datasets.Json`."""
    names = dict.fromkeys(name for row in rows for name in row)
    return Dataset(pa.table({name: _to_array([row.get(name) for row in rows]) for name in names}))


def from_table(table: pa.Table) -> Dataset:
    """An Arrow table as a dataset; columns of types that `datasets` or Parquet lack are converted likewise."""
    for index, column in enumerate(table.columns):
        if not _is_plain(column.type):
            array = _to_array(column.to_pylist())
            table = table.set_column(index, table.column_names[index], array).replace_schema_metadata(None)
    return Dataset(table)


def read_columns(dataset: Dataset, columns: Sequence[str], name: str | None) -> Iterator[dict[str, Any]]:
    """The rows of some columns, exactly as a file has them; half of a surrogate pair is refused if there is a name."""
    selected = dataset.select_columns(list(columns)).with_format("arrow")
    encoded = {column: dataset.features[column] for column in columns if "Json(" in repr(dataset.features[column])}
    for first in range(0, len(dataset) if columns else 0, _CHUNK):
        for index, row in enumerate(selected[first : first + _CHUNK].to_pylist(), start=first):
            row |= {column: _decode(row[column], feature) for column, feature in encoded.items()}
            for column in encoded if name is not None else ():
                if half := re.search("[\ud800-\udfff]", json.dumps(row[column], ensure_ascii=False)):
                    where = f"{name_row(name, index)}: {column}"
                    raise InputError(f"{where}: not valid text: {half[0]!r} is half of a surrogate pair.")
            yield row


def without_empty(dataset: Dataset, columns: Sequence[str], name: str, allowed: str | None = None) -> Dataset:
    """The dataset without those columns that are empty in every row; others are kept, or refused if `allowed`."""
    for column in [column for column in columns if column in dataset.column_names]:
        rows = enumerate(read_columns(dataset, [column], name))
        row = next((index for index, values in rows if not is_empty(values[column])), None)
        if row is None:
            dataset = dataset.remove_columns(column)
        elif allowed is not None:
            where = name_row(name, row)
            raise InputError(f"{where}: {column!r} has content, which is not supported; allowed: {allowed}.")
    return dataset


def is_empty(value: Any) -> bool:
    """Whether a value is null, an empty text, or has nothing inside."""
    if isinstance(value, (list, dict)):
        return all(map(is_empty, value.values() if isinstance(value, dict) else value))
    # Tools may be JSON text.
    return value is None or (isinstance(value, str) and value.strip() in ("", "null", "[]", "{}"))


def _to_array(values: list[Any]) -> pa.Array | pa.ChunkedArray:
    """Values as an Arrow array that gives them back: of Arrow's own types if it can, else of JSON texts."""
    is_whole = all(type(value) in (int, type(None)) for value in values)
    try:
        if len({key for value in values if isinstance(value, dict) for key in value}) <= _MOST_KEYS:
            if is_whole and any(value not in _INT64 for value in filter(None, values)):
                return pa.array([None if value is None else Decimal(value) for value in values])
            array = pa.array(values)
            # Arrow gives every object the keys of all.
            if _is_plain(array.type) and (not pa.types.is_nested(array.type) or array.to_pylist() == values):
                return array
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    # `datasets` cannot decode larger integers.
    parse = {"parse_int": lambda digits: int(digits) if int(digits) in _INT64 else float(digits)}
    small = (value if value is None else json.loads(json.dumps(value, default=str), **parse) for value in values)
    texts = [None if value is None else json.dumps(value) for value in small]
    return pa.array(texts, pa.string()).cast(pa.json_())


def _is_plain(kind: pa.DataType) -> bool:
    """Whether `datasets` and Parquet have a type."""
    try:
        Features.from_arrow_schema(pa.schema([("", kind)]))
    except ValueError:
        return False
    return "struct<>" not in str(kind)


def _decode(value: Any, feature: Any) -> Any:
    """A value with JSON texts in it, decoded exactly; `datasets` would round numbers and lose halves of characters."""
    if isinstance(feature, Json):
        return None if value is None else json.loads(value)
    if value is not None and isinstance(feature, (List, LargeList)):
        return [_decode(inner, feature.feature) for inner in value]
    if value is not None and isinstance(feature, dict):
        return {key: _decode(value[key], inner) for key, inner in feature.items()}
    return value
