"""The command line: arguments to calls, nothing else."""

import argparse
import os
import sys
from pathlib import Path

from sgpo import __version__
from sgpo.cli_eval import add_eval
from sgpo.cli_split import add_split
from sgpo.cli_study import add_study
from sgpo.errors import InputError

_RUN_HELP = "the whole loop: from seed pairs to an aligned model"
_TRAIN_HELP = "one leader run on a preference dataset; takes the arguments of `trl dpo` and the robust ones"


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns 0, 2 for bad input, or 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    # TRL reports each trainer to a server unless it is told not to; nobody asked for that here.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    command = argv[0] if argv else ""
    try:
        if command == "train":
            return _train(argv[1:])
        if command == "run":
            # Options may stand between overrides; argparse allows that to a parser of its own, not to a command's.
            return _run(_run_parser().parse_intermixed_args(argv[1:]))
        arguments = _parser().parse_args(argv)
        return arguments.call(arguments)
    except InputError as error:
        print(f"sgpo {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = "; the same command goes on after the last finished stage" if command == "run" else ""
        print(f"\nsgpo {command}: interrupted{hint}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sgpo", description="Robust, data-efficient preference alignment of language models."
    )
    parser.add_argument("--version", action="version", version=f"sgpo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    commands.add_parser("run", help=_RUN_HELP, add_help=False)
    commands.add_parser("train", help=_TRAIN_HELP, add_help=False)

    add_split(commands)
    add_eval(commands)
    add_study(commands)

    worst = commands.add_parser("worst-case", help="the worst case of an array of gaps in a Wasserstein ball")
    worst.add_argument("file", help="gaps (beta-scaled reward differences): text, one per line; .npy; or .parquet")
    worst.add_argument("--radius", type=float, required=True, help="Wasserstein radius, in the unit of the gap space")
    worst.add_argument("--space", choices=["margin", "probability"], default="margin", help="default: margin")
    worst.add_argument("--tangents", type=int, metavar="K", help="K tangents instead of the exact link")
    worst.add_argument("--window", type=float, nargs=2, metavar=("A", "B"), help="support of the worst case")
    worst.add_argument("--column", default="gap", help="column of a Parquet file; default: gap")
    worst.add_argument("--json", action="store_true", help="print JSON, with all atoms")
    worst.set_defaults(call=_worst_case)

    report = commands.add_parser("report", help="rebuild the report of a run")
    report.add_argument("directory", help="the run directory")
    report.set_defaults(call=_report)
    return parser


def _run_parser() -> argparse.ArgumentParser:
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
    from sgpo.hub import settle_hub_access

    overrides = [*arguments.overrides, *([f"output={arguments.output}"] if arguments.output else [])]
    content = read_recipe(arguments.config, overrides)
    offline = settle_hub_access(named_sources(content))
    from sgpo.processes import Processes
    from sgpo.progress import Reporter
    from sgpo.run_dir import explaining_full_disk

    processes = Processes()
    console = None if arguments.quiet or not processes.is_main else Console()
    reporter = Reporter(console)
    command = ["sgpo", "run", "--config", arguments.config, *overrides]
    if "world" in content:
        from sgpo.study.run import WorldRecipe, plan_world, run_world

        with processes.main_first():
            recipe = validate(WorldRecipe, content, arguments.config)
        if arguments.dry_run:
            Console().print(plan_world(recipe))
            return 0
        with explaining_full_disk(recipe.output):
            run_world(recipe, command=command, processes=processes, reporter=reporter)
            return _finish(Path(recipe.output), console) if processes.is_main else 0
    else:
        from sgpo.plan import plan_run
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
    from sgpo.report.table import rich_table, summary_rows

    page = write_report(directory)
    if console:
        record = read_run(directory)
        console.print(rich_table(summary_rows(record)))
        if record.shipped:
            console.print(record.shipped.sentence, highlight=False)
        console.print(f"Report: {page}", highlight=False)
    return 0


def _train(argv: list[str]) -> int:
    from sgpo.leader.script import train

    train(argv)
    return 0


def _worst_case(arguments: argparse.Namespace) -> int:
    from sgpo.gaps_file import describe_worst_case, read_gaps
    from sgpo.robust.follower import worst_case

    gaps = read_gaps(Path(arguments.file), arguments.column)
    try:
        answer = worst_case(
            gaps, arguments.radius, space=arguments.space, window=arguments.window, tangents=arguments.tangents
        )
    except ValueError as error:
        raise InputError(f"{arguments.file}: {error}") from error
    print(describe_worst_case(answer, as_json=arguments.json))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from sgpo.report.build import write_report

    print(write_report(Path(arguments.directory)))
    return 0
