"""The commands `sgpo run` and `sgpo report`."""

import argparse
import os
import sys
from pathlib import Path

from sgpo.errors import InputError


def run(argv: list[str]) -> int:
    """Runs the command. Returns 0."""
    # Options may stand between overrides.
    arguments = _parser().parse_intermixed_args(argv)
    if arguments.config is None:
        raise InputError("--config is missing; allowed: a recipe, a YAML file.")

    from rich.console import Console

    from sgpo.config import RunConfig, named_sources, read_recipe, validate
    from sgpo.store.hub import settle_hub_access

    overrides = [*arguments.overrides, *([f"output={arguments.output}"] if arguments.output else [])]
    content = read_recipe(arguments.config, overrides)
    # Before the libraries are imported: they read once whether they are offline.
    offline = settle_hub_access(named_sources(content))

    from sgpo.plan.run import plan_run
    from sgpo.rounds.loop import run_recipe
    from sgpo.store.processes import Processes, disconnect
    from sgpo.store.progress import Reporter
    from sgpo.store.run_dir import explaining_full_disk

    processes = Processes()
    with processes.main_first():
        config = validate(RunConfig, content, arguments.config)
        # Only the main process checks the inputs, so that a mistake is reported once.
        if processes.is_main:
            plan = plan_run(config, offline=offline, processes=processes.count, dry_run=arguments.dry_run)
            if arguments.dry_run:
                Console().print(plan)
            plan.check_nothing_missing()
    if arguments.dry_run:
        return 0
    # A table of several evaluations is wider than what rich takes a log to be.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    console = None if arguments.quiet or not processes.is_main else Console(width=width)
    for note in plan.shown_notes if console else ():
        console.print(note)
    command = ["sgpo", "run", "--config", arguments.config, *overrides]
    with explaining_full_disk(config.output):
        run_recipe(config, command=command, processes=processes, reporter=Reporter(console))
        if processes.is_main:
            _write_report(Path(config.output), console)
    disconnect()
    return 0


def report(argv: list[str]) -> int:
    """Runs the command. Returns 0."""
    parser = argparse.ArgumentParser(prog="sgpo report", description="Rebuilds the report of a run.")
    parser.add_argument("directory", type=Path, help="The run directory.")
    arguments = parser.parse_args(argv)

    from sgpo.report.build import write_report

    print(write_report(arguments.directory))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sgpo run",
        description="Runs the whole loop of a recipe.",
        epilog="`sgpo run --keys` lists the keys of a recipe, `sgpo run --keys follower` those of one section.",
    )
    parser.add_argument("--config", metavar="FILE", help="The recipe, a YAML file.")
    parser.add_argument("--output", metavar="DIR", help="The run directory; overrides the recipe's `output`.")
    parser.add_argument("--dry-run", action="store_true", help="Check everything that can be checked, print the plan.")
    parser.add_argument("--quiet", action="store_true", help="No progress, no table.")
    parser.add_argument("--keys", nargs="?", action=_ShowKeys, metavar="SECTION", help="List the keys of a recipe.")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Overrides, such as follower.radius=0.05.")
    return parser


class _ShowKeys(argparse.Action):
    """Prints the keys and exits."""

    def __call__(self, parser, namespace, section, option_string=None):
        from rich.console import Console

        from sgpo.config.keys import keys_table

        Console().print(keys_table(section))
        parser.exit()


def _write_report(directory: Path, console) -> None:
    from sgpo.report.build import write_report
    from sgpo.report.read import read_run
    from sgpo.report.story import reward_parts, tell_made
    from sgpo.report.table import grid_table, rich_table
    from sgpo.report.verdict import judge, judge_shipping

    page = write_report(directory)
    if console:
        record = read_run(directory)
        made = tell_made(record, f"{directory}/")
        parts = (grid_table(f"The parts of {name}", grid) for name, grid in reward_parts(record).items())
        numbers = (made, *judge(record)) if made else (rich_table(record), *parts)
        for shown in (*numbers, *judge_shipping(record), f"Report: {page}"):
            console.print(shown, highlight=False, markup=False)
