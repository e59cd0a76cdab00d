"""The follower for gaps that arrive in chunks, or are spread over processes: solved without collecting them."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgpo.errors import InputError
from sgpo.robust.ball import Ball, as_ball, check_monotone
from sgpo.robust.link import Link, as_array

_BINS = 256


@dataclass(frozen=True)
class StreamedCase:
    r"""The worst case of a stream, up to `upper - value`.

    Attributes:
        value: E_Q[f] of the law Q that `shares` describes, in nats; Q lies in the ball.
        upper: upper bound on the robust value, in nats.
        empirical_value, price, moved_share, full_radius, radius, space, window, link: as in `WorstCase`.
        bracket: (low, high) in the gap space: mass below low moves, mass from high on stays.
        split: share of the mass inside the bracket that moves.
        count, passes: number of gaps in all chunks of all processes, and of passes over them.
    """

    value: float
    upper: float
    empirical_value: float
    price: float
    moved_share: float
    full_radius: float
    radius: float
    space: str
    window: tuple[float, float]
    link: Link
    bracket: tuple[float, float]
    split: float
    count: int
    passes: int

    def shares(self, gaps: Any) -> np.ndarray:
        """(B,) share of each gap of a chunk that moves to window[0]; gaps as the stream held them."""
        points = np.clip(self.link.to_space(as_array(gaps)), *self.window)
        low, high = self.bracket
        moved = np.where(points < low, 1.0, np.where(points < high, self.split, 0.0))
        return np.where(points > self.window[0], moved, 0.0)


def solve_stream(
    chunks: Callable[[], Iterable[Any]] | Sequence[Any],
    ball: Ball | float | None = None,
    *,
    tolerance: float = 1e-9,
    group: Any = None,
    **options: Any,
) -> StreamedCase:
    r"""Worst case over chunks of gaps, by bisection on the price of radius.

    A price lambda and a marginal point t determine each other: lambda = (f(a) - f(t)) / (t - a). Every pass sums cost
    and gain between 257 values of t, and the next pass looks inside the bin in which the budget runs out: 8 bits of the
    price per pass, with three sums per bin as the only state. If `torch.distributed` is initialised, the sums are added
    over the group's processes; each holds its own chunks (possibly none) and gets the same answer.

    Args:
        chunks: a function that restarts the stream for every pass, or a sequence; of (B,) gaps (nats), or of pairs
            (gaps, weights) with weights >= 0.
        ball, **options: as `worst_case`; "quantiles" knots need all gaps at once.
        tolerance: largest `upper - value`, in nats; passes stop earlier if float64 cannot separate the ends.
        group: a process group; None: the default one.

    Raises:
        InputError: in every process, for what `worst_case` refuses and for a link that is not monotone.

    Source: PAPER.md D1.
    """
    ball = as_ball(ball, options)
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance!r}; allowed: a number > 0, in nats.")
    if ball.knots == "quantiles":
        raise InputError("knots is 'quantiles' for a stream; allowed: 'equispaced' or 'paper'.")
    link, (a, b) = ball.resolve()
    check_monotone(link)
    radius = ball.radius
    stream = _Stream(_restartable(chunks), link, (a, b), ball.clip, group)
    (count, mass, empirical), bins = stream.first_pass()
    full_radius = bins[0].sum() / mass
    budget, exhausted = radius * mass, radius >= full_radius
    # Cost, gain and mass below the bracket and inside it.
    below, inside, low, high, passes = np.zeros(3), np.zeros(3), a, b, 1
    if exhausted:
        below = bins.sum(axis=1)
    while not exhausted:
        edges = np.linspace(low, high, _BINS + 1)
        spent = below[0] + np.cumsum(bins[0])
        # Rounding can leave the budget a hair above all that is left; then the last bin of any cost is marginal.
        index = min(int(np.searchsorted(spent, budget, side="right")), int(np.flatnonzero(bins[0])[-1]))
        below, inside = below + bins[:, :index].sum(axis=1), bins[:, index]
        low, high = float(edges[index]), float(edges[index + 1])
        gap = (budget - below[0]) / mass * (_price(link, a, low) - _price(link, a, high))
        if gap <= tolerance or np.nextafter(low, np.inf) >= high:
            break
        bins = stream.later_pass(low, high)
        passes += 1
    rest = max(budget - below[0], 0.0)
    split = 0.0 if exhausted else min(rest / inside[0], 1.0)
    value = (empirical + below[1] + split * inside[1]) / mass
    upper = value if exhausted else (empirical + below[1] + rest * _price(link, a, low)) / mass
    return StreamedCase(
        value=float(value),
        upper=float(max(upper, value)),
        empirical_value=float(empirical / mass),
        price=0.0 if exhausted else float(inside[1] / inside[0]),
        moved_share=float((below[2] + split * inside[2]) / mass),
        full_radius=float(full_radius),
        radius=radius,
        space=link.space,
        window=(a, b),
        link=link,
        bracket=(np.inf, np.inf) if exhausted else (low, high),
        split=float(split),
        count=int(count),
        passes=passes,
    )


def _price(link: Link, lower: float, point: float) -> float:
    if point <= lower:
        return -float(link.slope(np.float64(lower)))
    return float(link.drop(lower, np.float64(point))) / (point - lower)


def _restartable(chunks: Any) -> Callable[[], Iterable[Any]]:
    if callable(chunks):
        return chunks
    if isinstance(chunks, Iterator):
        raise InputError("chunks is an iterator, which can be read once; allowed: a function that starts it again.")
    return lambda: chunks


@dataclass
class _Stream:
    """Sums over the chunks of all processes."""

    chunks: Callable[[], Iterable[Any]]
    link: Link
    window: tuple[float, float]
    clip: bool
    group: Any

    def first_pass(self) -> tuple[np.ndarray, np.ndarray]:
        """(count, total weight, weighted loss), and the bins of the whole window."""
        totals, bins, fault = np.zeros(3), np.zeros((3, _BINS)), None
        for gaps, weights in self._read():
            fault = fault or self._fault(gaps, weights)
            if fault is None:
                u = self._points(gaps)
                totals += (len(u), weights.sum(), weights @ self.link.value(u))
                bins += self._bins(u, weights, *self.window)
        # A fault must reach every process, or the others would wait for sums that never come.
        summed = self._reduce(np.concatenate([totals, bins.ravel(), [fault is not None]]))
        if fault is not None:
            raise InputError(fault)
        if summed[-1] > 0:
            raise InputError(f"chunks: {int(summed[-1])} other processes found invalid gaps; see their messages.")
        count, mass = summed[:2]
        if mass <= 0:
            raise InputError(f"chunks hold {int(count)} gaps of total weight {mass}; allowed: a weight above 0.")
        return summed[:3], summed[3:-1].reshape(3, _BINS)

    def later_pass(self, low: float, high: float) -> np.ndarray:
        """The bins of one bracket."""
        bins = np.zeros((3, _BINS))
        for gaps, weights in self._read():
            u = self._points(gaps)
            inside = (u >= low) & ((u < high) | (high == self.window[1]))
            bins += self._bins(u[inside], weights[inside], low, high)
        return self._reduce(bins.ravel()).reshape(3, _BINS)

    def _read(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for chunk in self.chunks():
            gaps, weights = chunk if isinstance(chunk, tuple) else (chunk, None)
            gaps = as_array(gaps)
            yield gaps, np.ones(len(gaps)) if weights is None else as_array(weights)

    def _points(self, gaps: np.ndarray) -> np.ndarray:
        return np.clip(self.link.to_space(gaps), *self.window)

    def _fault(self, gaps: np.ndarray, weights: np.ndarray) -> str | None:
        if gaps.ndim != 1 or weights.shape != gaps.shape:
            return f"chunks holds gaps of shape {gaps.shape} and weights {weights.shape}; allowed: (B,) and (B,)."
        if (bad := ~np.isfinite(gaps)).any():
            return f"chunks holds gaps {gaps[bad][0]}; allowed: finite."
        if (bad := ~(np.isfinite(weights) & (weights >= 0))).any():
            return f"chunks holds weights {weights[bad][0]}; allowed: finite and >= 0."
        points = self.link.to_space(gaps)
        outside = (points < self.window[0]) | (points > self.window[1])
        if outside.any() and not self.clip:
            return (
                f"chunks holds the gap {points[outside][0]} in the gap space, outside the window {list(self.window)}; "
                "allowed: inside it, or clip=True."
            )
        return None

    def _bins(self, u: np.ndarray, weights: np.ndarray, low: float, high: float) -> np.ndarray:
        edges = np.linspace(low, high, _BINS + 1)
        place = (np.searchsorted(edges, u, side="right") - 1).clip(0, _BINS - 1)
        a = self.window[0]
        sums = (weights * (u - a), weights * np.maximum(self.link.drop(a, u), 0.0), weights * (u > a))
        return np.stack([np.bincount(place, each, minlength=_BINS) for each in sums])

    def _reduce(self, sums: np.ndarray) -> np.ndarray:
        torch = sys.modules.get("torch")
        if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return sums
        on_gpu = torch.distributed.get_backend(self.group) == "nccl"
        tensor = torch.from_numpy(sums).to("cuda" if on_gpu else "cpu")
        torch.distributed.all_reduce(tensor, group=self.group)
        return tensor.cpu().numpy()
