"""The command `sgpo-study`: a table of the study, computed seed by seed."""

import argparse
import sys
from pathlib import Path
from typing import Any

from sgpo.errors import InputError


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Returns 0, 2 for bad input, or 130 when interrupted."""
    try:
        return run_study(_parser().parse_args(argv))
    except InputError as error:
        print(f"sgpo-study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsgpo-study: interrupted; the same command goes on after the last finished seed", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    study = argparse.ArgumentParser(prog="sgpo-study", description="A table of the study, by name; see `list`.")
    study.add_argument("table", metavar="TABLE", help="its name, or `list`")
    study.add_argument("--output", metavar="DIR", help="folder for rows, summaries and runs; goes on where it was")
    study.add_argument("--quick", action="store_true", help="the small form, for a first look")
    study.add_argument("--seeds", type=int, metavar="N", help="number of seeds; default: the table's own number")
    study.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that share the seeds; default: 1")
    study.add_argument("--data", metavar="DIR", help="folder of real preferences: a further world")
    return study


def run_study(arguments: argparse.Namespace) -> int:
    """Runs the command. Returns 0.

    Raises:
        InputError: no such table, no output, or as `run_table`.
    """
    from rich.console import Console
    from rich.table import Table

    from sgpo_research.registry import study_tables

    console, tables = Console(), study_tables(None if arguments.data is None else Path(arguments.data))
    if arguments.table == "list":
        shown = Table("table", "what it shows", "seeds", "quick")
        for table in tables.values():
            shown.add_row(table.name, table.title, str(table.seeds), str(table.quick_seeds))
        console.print(shown)
        return 0
    if arguments.table not in tables:
        raise InputError(f"table is {arguments.table!r}; allowed: {', '.join(tables)}, or list.")
    if arguments.output is None:
        raise InputError("--output is missing; allowed: a folder.")
    _run_table(tables[arguments.table], arguments, console)
    return 0


def _run_table(table: Any, arguments: argparse.Namespace, console: Any) -> None:
    from rich.markdown import Markdown
    from rich.progress import track

    from sgpo_research.tables import as_markdown, run_table, seed_count

    output, quick = Path(arguments.output), arguments.quick
    count = seed_count(table, quick=quick, seeds=arguments.seeds)
    if arguments.jobs < 1:
        raise InputError(f"--jobs is {arguments.jobs}; allowed: a whole number >= 1.")
    steps = iter(track(range(count), description="seeds", console=console, transient=True))
    if arguments.jobs > 1:
        from sgpo_research.jobs import compute_seeds

        data = None if arguments.data is None else Path(arguments.data)
        compute_seeds(
            table.name, output, range(count), quick=quick, data=data, jobs=arguments.jobs,
            progress=lambda done: next(steps, None),
        )  # fmt: skip
    summary = run_table(table, output, quick=quick, seeds=arguments.seeds, progress=lambda done: next(steps, None))
    console.print(Markdown(as_markdown(summary, table)))
    figure = " and figure" if table.figure is not None else ""
    console.print(f"Rows, summary{figure}: {output / table.name}{'-quick' if quick else ''}.*", highlight=False)
