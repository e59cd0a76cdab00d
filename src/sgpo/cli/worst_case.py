"""The command `sgpo worst-case`."""

import argparse
import json
from pathlib import Path

import numpy as np
from pydantic import create_model

from sgpo.cli.flags import add_flags, build
from sgpo.cli.gaps_file import read_gaps
from sgpo.config import Section
from sgpo.config.game import FollowerSettings
from sgpo.config.section import keys_of
from sgpo.errors import InputError
from sgpo.robust import WorstCase
from sgpo.robust import worst_case as solve
from sgpo.robust.link import sigmoid

# Four settings of SGPOConfig with their defaults; 0 tangents are the exact link.
_KEYS = keys_of(FollowerSettings, window=(tuple[float, float] | None, None))
_Settings = create_model(
    "_Settings", __base__=Section, **{name: _KEYS[name] for name in ("radius", "space", "tangents", "window")}
)


def worst_case(argv: list[str]) -> int:
    """Runs the command. Returns 0."""
    parser = argparse.ArgumentParser(
        prog="sgpo worst-case",
        description="Finds the worst case of gaps in a Wasserstein ball. Its settings have SGPOConfig's defaults.",
    )
    parser.add_argument("file", type=Path, help="Gaps in nats: text with one per line, .npy, or .parquet.")
    add_flags(parser, _Settings, _Settings.model_fields)
    parser.add_argument("--column", default="gap", help="Column of a Parquet file. Default: gap.")
    parser.add_argument("--json", action="store_true", help="Print JSON, with all atoms.")
    arguments = parser.parse_args(argv)
    settings = build(arguments, _Settings)
    gaps = read_gaps(arguments.file, arguments.column)
    _check_window(settings, gaps, arguments.file)
    worst = solve(
        gaps, settings.radius, space=settings.space, window=settings.window, tangents=settings.tangents or None
    )
    print(_describe(worst, settings.tangents, as_json=arguments.json))
    return 0


def _check_window(settings: Section, gaps: np.ndarray, file: Path) -> None:
    """Raises InputError for a window that is missing or wrong, or that does not hold every gap."""
    if settings.window is None and settings.space == "margin":
        raise InputError(
            "--window is missing; --space margin needs it: without one the worst case is the mean loss plus the radius "
            "(PAPER.md D2)."
        )
    (a, b), points = settings.window or (0, 1), gaps if settings.space == "margin" else sigmoid(gaps)
    found, row = f"{a:g} {b:g}", int(points.argmin() if points.min() < a else points.argmax())
    if not a < b:
        allowed = "A B with A < B"
    elif settings.space == "probability" and not (a >= 0 and b <= 1):
        found, allowed = f"{found} in probability space", "A B within 0 1, or --space margin"
    elif not a <= points[row] <= b:
        found += f" and gap {row} of {file} is {points[row]:.4g} in the gap space"
        allowed = "a window that holds every gap"
    else:
        return
    raise InputError(f"--window is {found}; allowed: {allowed}.")


def _describe(worst: WorstCase, tangents: int, *, as_json: bool) -> str:
    names = ("value", "empirical_value", "price", "moved_share", "marginal", "radius", "space")
    numbers = {name: getattr(worst, name) for name in names}
    numbers |= {"window": list(worst.window), "tangents": tangents}
    atoms, weights = np.asarray(worst.atoms), np.asarray(worst.atom_weights)
    if as_json:
        return json.dumps({**numbers, "atoms": atoms.tolist(), "atom_weights": weights.tolist()})
    rows = [*numbers.items(), ("atoms", f"{atoms.size}; heaviest:")]
    rows += [("", f"{weights[i]:.6g} at {atoms[i]:.6g}") for i in np.argsort(-weights, kind="stable")[:5]]
    width = max(map(len, numbers))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
