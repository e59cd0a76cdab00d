"""The command `sgpo report`."""

import argparse
from pathlib import Path
from typing import Any


def add_report(commands: Any) -> None:
    """Adds the command to the parsers of `sgpo`."""
    report = commands.add_parser("report", help="rebuild the report of a run")
    report.add_argument("directory", help="the run directory")
    report.set_defaults(call=_report)


def _report(arguments: argparse.Namespace) -> int:
    from sgpo.report.build import write_report

    print(write_report(Path(arguments.directory)))
    return 0
