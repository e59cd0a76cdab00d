"""The command `sgpo run`."""

import argparse
from pathlib import Path

_EPILOG = "`sgpo run --keys` lists the keys of a recipe with their defaults, `--keys follower` those of one section."


def run(argv: list[str]) -> int:
    """Runs the command. Returns 0."""
    # Options may stand between overrides.
    return _run(_parser().parse_intermixed_args(argv))


def _parser() -> argparse.ArgumentParser:
    run = argparse.ArgumentParser(prog="sgpo run", epilog=_EPILOG)
    run.add_argument("--config", required=True, metavar="FILE", help="the recipe, a YAML file")
    run.add_argument("--output", metavar="DIR", help="the run directory; overrides the recipe's `output`")
    run.add_argument("--dry-run", action="store_true", help="check everything that can be checked, print the plan")
    run.add_argument("--quiet", action="store_true", help="no progress, no table")
    run.add_argument(
        "--keys",
        nargs="?",
        action=_ShowKeys,
        metavar="SECTION",
        help="print the keys of a recipe or a section, and exit",
    )
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted overrides, such as follower.radius=0.05")
    return run


class _ShowKeys(argparse.Action):
    """Prints the keys before the other arguments are required."""

    def __call__(self, parser, namespace, section, option_string=None):
        from rich.console import Console

        from sgpo.config.keys import keys_table

        Console().print(keys_table(section))
        parser.exit()


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from sgpo.config import RunConfig, named_sources, read_recipe, validate
    from sgpo.store.hub import settle_hub_access

    overrides = [*arguments.overrides, *([f"output={arguments.output}"] if arguments.output else [])]
    content = read_recipe(arguments.config, overrides)
    # Before the libraries are imported: they read once whether they are offline.
    offline = settle_hub_access(named_sources(content))

    from sgpo.plan.run import plan_run
    from sgpo.rounds.loop import run_recipe
    from sgpo.store.processes import Processes
    from sgpo.store.progress import Reporter
    from sgpo.store.run_dir import explaining_full_disk

    processes = Processes()
    with processes.main_first():
        config = validate(RunConfig, content, arguments.config)
        # Only the main process checks the inputs, so that a mistake is reported once.
        if processes.is_main:
            plan = plan_run(config, offline=offline and arguments.dry_run, processes=processes.count)
            if arguments.dry_run:
                Console().print(plan)
            else:
                plan.check_nothing_missing()
    if arguments.dry_run:
        return 0
    console = None if arguments.quiet or not processes.is_main else Console()
    command = ["sgpo", "run", "--config", arguments.config, *overrides]
    with explaining_full_disk(config.output):
        run_recipe(config, command=command, processes=processes, reporter=Reporter(console))
        if processes.is_main:
            _report(Path(config.output), console)
    return 0


def _report(directory: Path, console) -> None:
    from sgpo.report.build import write_report
    from sgpo.report.read import read_run
    from sgpo.report.story import shipping_sentence
    from sgpo.report.table import rich_table

    page = write_report(directory)
    if console:
        record = read_run(directory)
        console.print(rich_table(record))
        if record.shipped:
            console.print(shipping_sentence(record), highlight=False)
        console.print(f"Report: {page}", highlight=False)
