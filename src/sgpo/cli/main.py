"""The command line: arguments to calls, nothing else."""

import argparse
import os
import sys

from sgpo import __version__
from sgpo.cli.report import add_report
from sgpo.cli.run import run
from sgpo.cli.split import add_split
from sgpo.cli.train import train
from sgpo.cli.worst_case import add_worst_case
from sgpo.errors import InputError

_RUN_HELP = "the whole loop: from seed pairs to an aligned model"
_EVAL_HELP = "answers, verdicts and gaps turned into numbers with intervals"
_TRAIN_HELP = "one leader run on a preference dataset; takes the arguments of `trl dpo` and the robust ones"


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns 0, 2 for bad input, or 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    # TRL reports each trainer to a server unless it is told not to; nobody asked for that here.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    command = argv[0] if argv else ""
    try:
        if command == "train":
            return train(argv[1:])
        if command == "study":
            raise InputError(
                "the study is a distribution of its own: `pip install ./research` in the repository, then `sgpo-study`."
            )
        if command == "run":
            return run(argv[1:])
        if command == "eval":
            # Its flags are made from the recipe's sections, which take a moment to load.
            from sgpo.cli.eval import evaluate

            return evaluate(argv[1:])
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
    commands.add_parser("eval", help=_EVAL_HELP, add_help=False)
    commands.add_parser("train", help=_TRAIN_HELP, add_help=False)

    add_split(commands)
    add_worst_case(commands)
    add_report(commands)

    return parser
