"""The command line: arguments to calls, nothing else."""

import argparse
import io
import os
import select
import sys
from pkgutil import resolve_name

from sgpo import __version__
from sgpo.errors import InputError
from sgpo.threads import passive_waiting

# Each command with its function, which is imported when it is called: some take a moment to load.
_COMMANDS = {
    "run": ("sgpo.cli.run:run", "Run the whole loop: from seed pairs to an aligned model."),
    "train": (
        "sgpo.leader.script:train",
        "Train once on a preference dataset, as `trl dpo` does, against a worst case.",
    ),
    "eval": ("sgpo.cli.eval:evaluate", "Turn answers, verdicts and gaps into numbers with intervals."),
    "split": ("sgpo.cli.split:split", "Draw seeds, pools of prompts and held-out pairs that share no prompt."),
    "worst-case": ("sgpo.cli.worst_case:worst_case", "Find the worst case of gaps in a Wasserstein ball."),
    "report": ("sgpo.cli.run:report", "Rebuild the report of a run."),
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns 0, 2 for bad input, or 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    # TRL sends telemetry for each trainer by default; it is turned off here.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.update(passive_waiting())
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot show must not end the command; stderr has this by default.
        sys.stdout.reconfigure(errors="backslashreplace")
    command = argv[0] if argv else ""
    try:
        if command == "study":
            raise InputError(
                "the study is a separate package: `pip install ./research` in the repository, then `sgpo-study`."
            )
        _parser().parse_args(argv[:1])
        code = resolve_name(_COMMANDS[command][0])(argv[1:])
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"sgpo {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = "; run the same command again to resume after the last finished stage" if command == "run" else ""
        print(f"\nsgpo {command}: interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        poll = select.poll()
        poll.register(sys.stdout, 0)
        if not poll.poll(0):
            raise
        # Nobody reads the output, as after `| head`. Source: the note on SIGPIPE in Python's documentation.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sgpo",
        description="Robust, data-efficient preference alignment of language models.",
        epilog="`sgpo COMMAND --help` lists the arguments of a command.",
    )
    parser.add_argument("--version", action="version", version=f"sgpo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (_, help_) in _COMMANDS.items():
        commands.add_parser(name, help=help_, add_help=False)
    return parser
