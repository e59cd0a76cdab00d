"""A table of the study: what one seed adds to it, and how its rows are summed up."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from sgpo.errors import InputError
from sgpo.run_dir import write_atomically
from sgpo.study.figures.style import as_svg
from sgpo.study.summary import Row, summarise


@dataclass(frozen=True)
class StudyTable:
    """One table or figure.

    Attributes:
        name: as the command line has it, such as "table3".
        title: one line.
        seeds, quick_seeds: how many seeds the full and the quick form take.
        run: the rows of one seed, from the seed, whether the form is quick, and a folder for run directories. A row
            holds the keys of `by` and the measures.
        by: keys whose combinations are the rows of the summary.
        measures: numbers that are averaged over seeds.
        figure: draws the rows of the summary, whose measures or bounds may be absent or nan; None: no figure.
    """

    name: str
    title: str
    seeds: int
    quick_seeds: int
    run: Callable[[int, bool, Path], list[Row]]
    by: tuple[str, ...]
    measures: tuple[str, ...]
    figure: Callable[[list[Row]], Figure] | None = None


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
        table: what to compute.
        output: a folder: raw/TABLE/ gets one Parquet file per seed as soon as it is done, TABLE.parquet all rows,
            TABLE-summary.parquet and TABLE.md the means, TABLE.svg the figure where the table has one. With `quick` the
            names end in -quick.
        quick: the small form.
        seeds: how many seeds; None: the table's own number.
        progress: called with the number of seeds newly done.

    Returns: the rows of the summary: the keys of `by`, `seeds`, and for each measure its mean, low and high (95%).

    Raises:
        InputError: the folder holds a file, or seeds < 1.
    """
    count = seeds if seeds is not None else (table.quick_seeds if quick else table.seeds)
    if count < 1:
        raise InputError(f"seeds is {count}; allowed: a whole number >= 1.")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; allowed: a folder, or a path that does not exist.")
    name = f"{table.name}-quick" if quick else table.name
    raw = output / "raw" / name
    raw.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        path = raw / f"{seed:05d}.parquet"
        if not path.exists():
            _write_rows([{"seed": seed, **row} for row in table.run(seed, quick, output / "runs" / name)], path)
        progress(1)
    rows = [row for seed in range(count) for row in pq.read_table(raw / f"{seed:05d}.parquet").to_pylist()]
    _write_rows(rows, output / f"{name}.parquet")
    summary = summary_rows(rows, by=table.by, measures=table.measures)
    _write_rows(summary, output / f"{name}-summary.parquet")
    write_atomically(output / f"{name}.md", f"# {table.title}\n\n{as_markdown(summary, table)}\n")
    if table.figure is not None:
        write_atomically(output / f"{name}.svg", as_svg(table.figure(summary), table.title))
    return summary


def summary_rows(rows: list[Row], *, by: Sequence[str], measures: Sequence[str]) -> list[Row]:
    """One row for each combination of the keys `by`: the keys, `seeds`, and mean, low and high of each measure."""
    means = {
        measure: summarise([row for row in rows if row.get(measure) is not None], by=by, measure=measure)
        for measure in measures
    }
    found: list[Row] = []
    for key in dict.fromkeys(tuple(row[name] for name in by) for row in rows):
        row: Row = dict(zip(by, key, strict=True))
        for measure in measures:
            if key in means[measure]:
                mean = means[measure][key]
                row |= {
                    "seeds": mean.seeds,
                    measure: mean.mean,
                    f"{measure}_low": mean.low,
                    f"{measure}_high": mean.high,
                }
        found.append(row)
    return found


def as_markdown(summary: list[Row], table: StudyTable) -> str:
    """The summary as a Markdown table: mean and half-width of the 95% interval."""
    lines = ["| " + " | ".join([*table.by, *table.measures, "seeds"]) + " |"]
    lines.append("|" + "---|" * (len(table.by) + len(table.measures) + 1))
    for row in summary:
        cells = [str(row[key]) for key in table.by]
        for measure in table.measures:
            if measure not in row:
                cells.append("-")
                continue
            half = (row[f"{measure}_high"] - row[f"{measure}_low"]) / 2
            cells.append(f"{row[measure]:.3f}" + (f" ± {half:.3f}" if half == half else ""))
        lines.append("| " + " | ".join([*cells, str(row.get("seeds", ""))]) + " |")
    return "\n".join(lines)


def _write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    metadata = {"sgpo": json.dumps({"rows": len(rows)})}
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), partial)
    partial.replace(path)
