"""A table of the study: the rows of each seed, and their summary."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from sgpo.errors import InputError
from sgpo.store.files import replacing, write_atomically
from sgpo_research.figures.style import as_svg
from sgpo_research.summary import Row, mean_of, paired_difference


@dataclass(frozen=True)
class StudyTable:
    """One table or figure.

    Attributes:
        name: on the command line, such as "table3".
        title: one line.
        seeds, quick_seeds: numbers of seeds of the full and the quick form.
        run: computes the rows of a seed from the seed, whether the form is quick, and a folder for run directories. A
            row holds the keys of `by` and the measures.
        by: keys whose combinations are the rows of the summary.
        measures: numbers that are averaged over seeds.
        figure: draws the rows of the summary, whose measures or bounds may be absent or nan; None: no figure.
        against: a key of `by` and one of its values: the summary has the first measure's difference to the rows with
            that value, paired by seed.
        spread: the Markdown also has the standard deviation over seeds; the summary always has it.
        closing: makes the end of the Markdown from the rows.
        data: folder of real data that rows depend on; rows of another folder, or of none, are refused.
        part: the name of another table, and a function that takes the rows of a seed from its rows; None where some
            are missing.
    """

    name: str
    title: str
    seeds: int
    quick_seeds: int
    run: Callable[[int, bool, Path], list[Row]]
    by: tuple[str, ...]
    measures: tuple[str, ...]
    figure: Callable[[list[Row]], Figure] | None = None
    against: tuple[str, str] | None = None
    spread: bool = False
    closing: Callable[[list[Row]], str] | None = None
    data: Path | None = None
    part: tuple[str, Callable[[list[Row]], list[Row] | None]] | None = None


def run_table(
    table: StudyTable,
    output: Path,
    *,
    quick: bool,
    seeds: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Row]:
    """Computes the seeds of a table that are not on disk yet, and writes rows, summary and figure.

    Args:
        table: the table.
        output: a folder: raw/TABLE/ gets one Parquet file per seed as soon as it is computed, TABLE.parquet all rows,
            TABLE-summary.parquet and TABLE.md the means, TABLE.svg the figure if there is one. With `quick` the names
            end in -quick.
        quick: the small form.
        seeds: number of seeds; None: the table's own number.
        progress: called with the number of newly computed seeds.

    Returns: the rows of the summary: the keys of `by`, `seeds`, and for each measure its mean, low and high (95%).

    Raises:
        InputError: the folder holds a file, or seeds < 1.
    """
    count = seed_count(table, quick=quick, seeds=seeds)
    check_folder(output)
    for seed in range(count):
        compute_seed(table, output, seed, quick=quick)
        progress(1)
    rows = [row for seed in range(count) for row in pq.read_table(_raw(table.name, output, seed, quick)).to_pylist()]
    name = _name(table.name, quick)
    _write_rows(rows, output / f"{name}.parquet")
    summary = summary_rows(rows, by=table.by, measures=table.measures, against=table.against)
    _write_rows(summary, output / f"{name}-summary.parquet")
    closing = "" if table.closing is None else f"\n{table.closing(rows)}\n"
    write_atomically(output / f"{name}.md", f"# {table.title}\n\n{as_markdown(summary, table)}\n{closing}")
    if table.figure is not None:
        write_atomically(output / f"{name}.svg", as_svg(table.figure(summary), table.title))
    return summary


def check_folder(output: Path) -> None:
    """Raises InputError if the output is a file."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; allowed: a folder, or a path that does not exist.")


def seed_count(table: StudyTable, *, quick: bool, seeds: int | None) -> int:
    """The number of seeds: the one given, else the table's own.

    Raises:
        InputError: seeds < 1.
    """
    count = seeds if seeds is not None else (table.quick_seeds if quick else table.seeds)
    if count < 1:
        raise InputError(f"seeds is {count}; allowed: a whole number >= 1.")
    return count


def compute_seed(table: StudyTable, output: Path, seed: int, *, quick: bool) -> None:
    """Writes the rows of one seed, unless they exist; takes them from another table that holds them all.

    Raises:
        InputError: the existing rows were computed from other data.
    """
    path, data = _raw(table.name, output, seed, quick), _name_of_data(table)
    if path.exists():
        if (found := _data_of(path)) != data:
            raise InputError(
                f"{path} was computed with --data {found or 'left out'}; allowed: the same, or another --output."
            )
        return
    rows: list[Row] | None = None
    if table.part is not None and (whole := _raw(table.part[0], output, seed, quick)).exists():
        rows = table.part[1](pq.read_table(whole).to_pylist()) if _data_of(whole) == data else None
    if rows is None:
        found = table.run(seed, quick, output / "runs" / _name(table.name, quick))
        rows = [{"seed": seed, **row} for row in found]
    _write_rows(rows, path, data=data)


def summary_rows(
    rows: list[Row], *, by: Sequence[str], measures: Sequence[str], against: tuple[str, str] | None = None
) -> list[Row]:
    """One row for each combination of the keys `by`.

    Args:
        rows: with `seed`, the keys and the measures; a measure may be absent.
        by, measures, against: as in `StudyTable`.

    Returns: the keys, `seeds`, and for each measure its mean, `_low` and `_high` (95%) and `_sd` over seeds; with
        `against` also `less`, `less_low`, `less_high`: the difference of the first measure to the row it is compared
        with.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    found: list[Row] = []
    for key, mine in groups.items():
        row: Row = dict(zip(by, key, strict=True))
        for measure in measures:
            values = [one[measure] for one in mine if one.get(measure) is not None]
            if values:
                mean = mean_of(values)
                row |= {"seeds": mean.seeds, measure: mean.mean}
                row |= {f"{measure}_low": mean.low, f"{measure}_high": mean.high}
                row[f"{measure}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        if against is not None and row[against[0]] != against[1]:
            beside = groups.get(tuple(against[1] if name == against[0] else row[name] for name in by))
            if beside:
                difference = paired_difference(
                    [*mine, *beside], key=against[0], first=row[against[0]], second=against[1], measure=measures[0]
                )
                row |= {"less": difference.mean, "less_low": difference.low, "less_high": difference.high}
        found.append(row)
    return found


def as_markdown(summary: list[Row], table: StudyTable) -> str:
    """The summary as a Markdown table: mean and half-width of the 95% interval."""
    titles = [*table.by]
    for measure in table.measures:
        titles += [measure, *(["sd"] if table.spread else [])]
    if table.against is not None:
        titles.append(f"less {table.against[1]}")
    titles.append("seeds")
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in summary:
        cells = [str(row[key]) for key in table.by]
        for measure in table.measures:
            cells.append(_with_half_width(row, measure))
            if table.spread:
                cells.append(f"{row[f'{measure}_sd']:.3f}" if measure in row else "-")
        if table.against is not None:
            cells.append(_with_half_width(row, "less"))
        lines.append("| " + " | ".join([*cells, str(row.get("seeds", ""))]) + " |")
    return "\n".join(lines)


def _with_half_width(row: Row, measure: str) -> str:
    if measure not in row:
        return "-"
    half = (row[f"{measure}_high"] - row[f"{measure}_low"]) / 2
    return f"{row[measure]:.3f}" + (f" \N{PLUS-MINUS SIGN} {half:.3f}" if half == half else "")


def _name(table: str, quick: bool) -> str:
    return f"{table}-quick" if quick else table


def _raw(table: str, output: Path, seed: int, quick: bool) -> Path:
    return output / "raw" / _name(table, quick) / f"{seed:05d}.parquet"


def _name_of_data(table: StudyTable) -> str:
    return "" if table.data is None else str(table.data.resolve())


def _data_of(path: Path) -> str:
    return json.loads((pq.read_schema(path).metadata or {}).get(b"sgpo", b"{}")).get("data", "")


def _write_rows(rows: list[dict[str, Any]], path: Path, *, data: str = "") -> None:
    metadata = {"sgpo": json.dumps({"rows": len(rows), "data": data})}
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), partial)
