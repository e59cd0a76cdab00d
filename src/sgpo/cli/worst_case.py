"""The command `sgpo worst-case`."""

import argparse
from pathlib import Path
from typing import Any

from sgpo.errors import InputError


def add_worst_case(commands: Any) -> None:
    """Adds the command to the parsers of `sgpo`."""
    worst = commands.add_parser("worst-case", help="the worst case of an array of gaps in a Wasserstein ball")
    worst.add_argument("file", help="gaps (beta-scaled reward differences): text, one per line; .npy; or .parquet")
    worst.add_argument("--radius", type=float, required=True, help="Wasserstein radius, in the unit of the gap space")
    worst.add_argument("--space", choices=["margin", "probability"], default="margin", help="default: margin")
    worst.add_argument("--tangents", type=int, metavar="K", help="K tangents instead of the exact link")
    worst.add_argument("--window", type=float, nargs=2, metavar=("A", "B"), help="support of the worst case")
    worst.add_argument("--column", default="gap", help="column of a Parquet file; default: gap")
    worst.add_argument("--json", action="store_true", help="print JSON, with all atoms")
    worst.set_defaults(call=_worst_case)


def _worst_case(arguments: argparse.Namespace) -> int:
    from sgpo.cli.gaps_file import describe_worst_case, read_gaps
    from sgpo.robust.exact import worst_case

    gaps = read_gaps(Path(arguments.file), arguments.column)
    try:
        answer = worst_case(
            gaps, arguments.radius, space=arguments.space, window=arguments.window, tangents=arguments.tangents
        )
    except ValueError as error:
        raise InputError(f"{arguments.file}: {error}") from error
    print(describe_worst_case(answer, as_json=arguments.json))
    return 0
