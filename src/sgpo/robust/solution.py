"""What the follower's optimum is: one record for every solver."""

from dataclasses import dataclass
from typing import Any

from sgpo.robust.ball import Problem
from sgpo.robust.link import Link, namespace


@dataclass(frozen=True, eq=False, repr=False)
class WorstCase:
    r"""The worst distribution of gaps in a Wasserstein-1 ball, and its cost.

    Numbers are floats for NumPy input, and 0-dimensional tensors on the input's device for PyTorch input; arrays
    likewise. `sgpo.robust.certify` and `value_curve` take this record.

    Attributes:
        value: V(radius) = E_Q[f(u)] under the worst case Q, in nats.
        empirical_value: E[f(u)] under the data, in nats.
        price: lambda = dV/d radius from the right, in nats per unit of the gap space; 0 once everything has moved.
        moved: (N,) in [0, 1], the share of each gap's mass that moves to window[0]; 0 for a gap that is already there.
            Gaps tied at the marginal gap share its split evenly.
        moved_share: share of all mass that moves.
        marginal: the lowest gap that does not move whole, as a point of the gap space; window[1] once everything has
            moved.
        radius: in the unit of the gap space.
        full_radius: the smallest radius at which everything has moved; V is constant from there on.
        space, window, link: the gap space, [a, b] in its unit, and the link f.
        points: (N,) the gaps as points of the gap space, clipped if requested; float64 gaps in margin space are not
            copied.
        weights: (N,) sample weights that sum to 1; None where all are equal.
        raised: (N,) the share that moves to window[1]; None for a non-increasing link, where no mass does.

    Source: arXiv:2502.18099, Theorem 3.3; PAPER.md D1.
    """

    value: Any
    empirical_value: Any
    price: Any
    moved: Any
    moved_share: Any
    marginal: Any
    radius: float
    full_radius: Any
    space: str
    window: tuple[float, float]
    link: Link
    points: Any
    weights: Any = None
    raised: Any = None

    @classmethod
    def of(cls, problem: Problem, **numbers: Any) -> "WorstCase":
        """The record of a problem's solution: the problem's own fields, and the numbers that a solver found."""
        return cls(space=problem.link.space, **problem._asdict(), **numbers)

    @property
    def mass(self) -> Any:
        """(N,) mass of each gap under the data."""
        points = self.points
        return namespace(points).full_like(points, 1.0 / len(points)) if self.weights is None else self.weights

    @property
    def atoms(self) -> Any:
        """(M,) places of the worst case Q, M <= N + 2: the ends of the window that mass moved to, then what stayed."""
        return self._law()[0]

    @property
    def atom_weights(self) -> Any:
        """(M,) mass of Q at each atom; sums to 1."""
        return self._law()[1]

    def _law(self) -> tuple[Any, Any]:
        xp, mass = namespace(self.points), self.mass
        a, b = self.window
        stays = mass * (1.0 - self.moved) if self.raised is None else mass * (1.0 - self.moved - self.raised)
        ends, end_mass = [a], [(mass * self.moved).sum()]
        if self.raised is not None:
            ends, end_mass = [a, b], [*end_mass, (mass * self.raised).sum()]
        places = xp.concat([xp.ones_like(self.points[:1]) * end for end in ends] + [self.points])
        weights = xp.concat([xp.ones_like(self.points[:1]) * share for share in end_mass] + [stays])
        keep = weights > 0
        return places[keep], weights[keep]

    def __repr__(self) -> str:
        a, b = self.window
        return (
            f"WorstCase(value={float(self.value):.6g} nats, empirical_value={float(self.empirical_value):.6g}, "
            f"price={float(self.price):.6g}, moved_share={float(self.moved_share):.4g}, "
            f"marginal={float(self.marginal):.6g}, radius={self.radius:g} of {float(self.full_radius):.6g}, "
            f"N={len(self.points)}, link={self.link.name}, {self.space} [{a:g}, {b:g}])"
        )
