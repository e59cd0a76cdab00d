"""The command `sgpo-study`: computes a table of the study, seed by seed."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from sgpo.errors import InputError
from sgpo.threads import passive_waiting
from sgpo_research.annotators_command import annotators_parser, run_annotators
from sgpo_research.real_model_command import real_model_parser, run_real_model
from sgpo_research.requests_command import requests_parser, run_requests

# Beside the tables.
_COMMANDS = {
    "annotators": (annotators_parser, run_annotators),
    "requests": (requests_parser, run_requests),
    "real-model": (real_model_parser, run_real_model),
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Returns 0, 2 for bad input, or 130 when interrupted."""
    os.environ.update(passive_waiting())
    try:
        given = sys.argv[1:] if argv is None else argv
        if given and given[0] in _COMMANDS:
            parser, run = _COMMANDS[given[0]]
            run(parser().parse_args(given[1:]))
            return 0
        return _run(_parser().parse_args(given))
    except InputError as error:
        print(f"sgpo-study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsgpo-study: interrupted; the same command resumes after what is finished", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    study = argparse.ArgumentParser(
        prog="sgpo-study",
        description="Computes a table of the study; `list` names them. `sgpo-study requests --help`: a world's files.",
    )
    study.add_argument("table", metavar="TABLE", help="name of a table, or list")
    study.add_argument("--output", type=Path, metavar="DIR", help="folder for rows, summaries and runs; resumes there")
    study.add_argument("--quick", action="store_true", help="the small form, for a first look")
    study.add_argument("--seeds", type=int, metavar="N", help="number of seeds; default: the table's own number")
    study.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that share the seeds; default: 1")
    study.add_argument("--data", type=Path, metavar="DIR", help="folder of real preferences, an additional world")
    return study


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from sgpo_research.registry import study_tables

    console, tables = Console(), study_tables(arguments.data)
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

    output, quick, jobs = arguments.output, arguments.quick, arguments.jobs
    for flag, number in (("--seeds", arguments.seeds), ("--jobs", jobs)):
        if number is not None and number < 1:
            raise InputError(f"{flag} is {number}; allowed: a whole number >= 1.")
    count = seed_count(table, quick=quick, seeds=arguments.seeds)
    steps = iter(track(range(count), description="seeds", console=console, transient=True))

    def advance(done: int) -> None:
        next(steps, None)

    if jobs > 1:
        from sgpo_research.jobs import compute_seeds

        compute_seeds(table.name, output, range(count), quick=quick, data=arguments.data, jobs=jobs, progress=advance)
    summary = run_table(table, output, quick=quick, seeds=arguments.seeds, progress=advance)
    console.print(Markdown(as_markdown(summary, table)))
    figure = " and figure" if table.figure is not None else ""
    console.print(f"Rows, summary{figure}: {output / table.name}{'-quick' if quick else ''}.*", highlight=False)
