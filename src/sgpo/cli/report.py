"""The command `sgpo report`."""

import argparse
from pathlib import Path


def report(argv: list[str]) -> int:
    """Runs the command. Returns 0."""
    parser = argparse.ArgumentParser(prog="sgpo report", description="Rebuilds the report of a run.")
    parser.add_argument("directory", type=Path, help="The run directory.")
    directory = parser.parse_args(argv).directory
    from sgpo.report.build import write_report

    print(write_report(directory))
    return 0
