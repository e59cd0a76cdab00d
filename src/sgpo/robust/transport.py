"""The optimum in the paper's variables: masses s and displacements q for every gap and piece."""

from typing import NamedTuple

import numpy as np

from sgpo.errors import InputError
from sgpo.robust.link import TangentLink


class Transport(NamedTuple):
    """Theorem 3.3's variables: mass s (N, K) with rows that sum to 1, displacement q (N, K) in the gap space.

    Mass s[i, k] of gap i sits at u_i - q[i, k] / s[i, k], where piece k is the active one.
    """

    mass: np.ndarray
    displacement: np.ndarray


def paper_variables(worst) -> Transport:
    """(s, q) of a `WorstCase`, in NumPy.

    With a tangent link the columns are its K pieces. For any other link the program has no pieces; the columns then
    are the mass that stays and the mass that moves.
    Raises: InputError for a link that is not monotone.
    Source: arXiv:2502.18099, Theorem 3.3.
    """
    link, (a, _) = worst.link, worst.window
    if not link.decreasing:
        raise InputError(f"link is {link.name}, which is not monotone; allowed: a non-increasing link.")
    u, moved = (np.asarray(x.cpu() if hasattr(x, "cpu") else x, dtype=np.float64) for x in (worst.points, worst.moved))
    if isinstance(link, TangentLink):
        stay, go, pieces = link.piece(u), int(link.piece(a)), len(link.slopes)
    else:
        stay, go, pieces = np.zeros(len(u), dtype=int), 1, 2
    rows = np.arange(len(u))
    mass, displacement = np.zeros((len(u), pieces)), np.zeros((len(u), pieces))
    np.add.at(mass, (rows, stay), 1.0 - moved)
    mass[:, go] += moved
    displacement[:, go] = moved * (u - a)
    return Transport(mass, displacement)
