"""The command `sgpo worst-case`."""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
from pydantic import create_model

from sgpo.cli.flags import add_flags, build
from sgpo.config import Section
from sgpo.config.game import FollowerSettings
from sgpo.config.section import keys_of
from sgpo.errors import InputError, first_line
from sgpo.robust import WorstCase
from sgpo.robust import worst_case as solve
from sgpo.robust.ball import check_gaps
from sgpo.robust.link import sigmoid
from sgpo.store.files import read_numbers, read_text

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


def read_gaps(path: Path, column: str) -> np.ndarray:
    """(N,) finite gaps from text (one per line), a .npy array, or a column of a .parquet file."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {found}; allowed: text with one gap per line, .npy, or .parquet.")
    readers = {".parquet": lambda path: read_numbers(path, [column])[0], ".npy": _read_npy}
    gaps = readers.get(path.suffix, _read_text)(path)
    if not gaps.size:
        raise InputError(f"{path} holds no gaps; allowed: at least one.")
    return check_gaps(gaps, f"{path}: gaps")


def _read_text(path: Path) -> np.ndarray:
    gaps = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            gaps += [float(line)] if line.strip() else []
        except ValueError as error:
            raise InputError(f"{path} line {number}: {line.strip()[:40]!r} is not a number.") from error
    return np.array(gaps)


def _read_npy(path: Path) -> np.ndarray:
    try:
        # Opened here, because NumPy leaves a file open that holds several arrays.
        with open(path, "rb") as file, warnings.catch_warnings():
            # Of a header that Python 2 wrote.
            warnings.simplefilter("ignore", UserWarning)
            gaps = np.load(file, allow_pickle=False)
    except Exception as error:
        # A damaged header raises TokenError, TypeError or MemoryError too.
        raise InputError(f"{path}: not a .npy array of numbers ({first_line(error)}).") from error
    if not isinstance(gaps, np.ndarray):
        raise InputError(f"{path}: holds several arrays; allowed: one, as numpy.save writes it.")
    if not np.issubdtype(gaps.dtype, np.number) or np.iscomplexobj(gaps):
        raise InputError(f"{path}: holds {gaps.dtype}; allowed: real numbers.")
    return gaps
