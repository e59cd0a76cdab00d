"""The command `sgpo run`."""

import argparse
from pathlib import Path

from sgpo.errors import InputError


def run(argv: list[str]) -> int:
    """Runs the command. Returns 0."""
    # Options may stand between overrides.
    return _run(_parser().parse_intermixed_args(argv))


def _parser() -> argparse.ArgumentParser:
    run = argparse.ArgumentParser(prog="sgpo run")
    run.add_argument("--config", required=True, metavar="FILE", help="the recipe, a YAML file")
    run.add_argument("--output", metavar="DIR", help="the run directory; overrides the recipe's `output`")
    run.add_argument(
        "--dry-run", action="store_true", help="check everything that can be known beforehand, print the plan"
    )
    run.add_argument("--quiet", action="store_true", help="no progress, no table")
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted overrides, such as follower.radius=0.05")
    return run


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from sgpo.config import RunConfig, named_sources, read_recipe, validate
    from sgpo.store.hub import settle_hub_access

    overrides = [*arguments.overrides, *([f"output={arguments.output}"] if arguments.output else [])]
    content = read_recipe(arguments.config, overrides)
    offline = settle_hub_access(named_sources(content))
    from sgpo.store.processes import Processes
    from sgpo.store.progress import Reporter
    from sgpo.store.run_dir import explaining_full_disk

    processes = Processes()
    console = None if arguments.quiet or not processes.is_main else Console()
    reporter = Reporter(console)
    command = ["sgpo", "run", "--config", arguments.config, *overrides]
    from sgpo.plan.run import plan_run
    from sgpo.rounds.loop import run_recipe

    with processes.main_first():
        config = validate(RunConfig, content, arguments.config)
        # What is wrong with the inputs is found, and told, once.
        plan = None
        if processes.is_main:
            plan = plan_run(config, offline=offline and arguments.dry_run, processes=processes.count)
        if plan is not None and plan.missing and not arguments.dry_run:
            raise InputError("; ".join(plan.missing) + ".")
    if arguments.dry_run:
        if plan is not None:
            Console().print(plan)
        return 0
    with explaining_full_disk(config.output):
        run_recipe(config, command=command, processes=processes, reporter=reporter)
        return _finish(Path(config.output), console) if processes.is_main else 0


def _finish(directory: Path, console) -> int:
    from sgpo.report.build import write_report
    from sgpo.report.read import read_run
    from sgpo.report.story import shipping_sentence
    from sgpo.report.table import rich_table, summary_rows

    page = write_report(directory)
    if console:
        record = read_run(directory)
        console.print(rich_table(summary_rows(record)))
        if record.shipped:
            console.print(shipping_sentence(record), highlight=False)
        console.print(f"Report: {page}", highlight=False)
    return 0
