"""What the follower's optimum tells: one record for every solver."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sgpo.robust.curve import Curve, value_curve
from sgpo.robust.duality import Certificate, certify
from sgpo.robust.link import Link, namespace
from sgpo.robust.transport import Transport, paper_variables


@dataclass(frozen=True, eq=False, repr=False)
class WorstCase:
    r"""The worst distribution of gaps in a Wasserstein-1 ball, and what it costs.

    Numbers are floats for NumPy input, and tensors of no axes on the input's device for PyTorch input; arrays likewise.

    Attributes:
        value: V(radius) = E_Q[f(u)] under the worst case Q, in nats.
        empirical_value: E[f(u)] under the data, in nats.
        price: lambda = dV/d radius from the right, in nats per unit of the gap space; 0 once everything has moved.
        moved: (N,) in [0, 1], the share of each gap's mass that goes to window[0]; 0 for a gap that is there already.
            Gaps tied at the marginal one share its split evenly.
        moved_share: the share of all mass that is moved.
        marginal: the marginal gap, the lowest that is not moved whole, as a point of the gap space; window[1] once
            everything has moved.
        radius: the radius, in the unit of the gap space.
        full_radius: the radius from which on everything has moved and the value stays as it is.
        space, window, link: the gap space, [a, b] in its unit, and the link f.
        points: (N,) the gaps as points of the gap space (clipped, if asked for); float64 gaps in margin space are not
            copied.
        weights: (N,) sample weights that sum to 1, or None where all are equal.
        raised: (N,) the share sent to window[1]; None for a non-increasing link, where nothing is.

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

    @property
    def mass(self) -> Any:
        """(N,) mass of each gap under the data."""
        return (
            namespace(self.points).full_like(self.points, 1.0 / len(self.points))
            if self.weights is None
            else self.weights
        )

    @cached_property
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

    @property
    def atoms(self) -> Any:
        """(M,) places of the worst case Q, M <= N + 1: the window's end that mass was sent to, then what stayed."""
        return self._law[0]

    @property
    def atom_weights(self) -> Any:
        """(M,) mass of Q at each atom; sums to 1."""
        return self._law[1]

    def certificate(self) -> Certificate:
        """The dual certificate, computed afresh: its gap proves how far the law is from the optimum at most."""
        return certify(self)

    def curve(self) -> Curve:
        """Breakpoints of V(radius) for the same data, in NumPy; O(N log N)."""
        return value_curve(self)

    def transport(self) -> Transport:
        """The paper's (s, q), (N, K) each, in NumPy."""
        return paper_variables(self)

    def __repr__(self) -> str:
        a, b = self.window
        return (
            f"WorstCase(value={float(self.value):.6g} nats, empirical_value={float(self.empirical_value):.6g}, "
            f"price={float(self.price):.6g}, moved_share={float(self.moved_share):.4g}, "
            f"marginal={float(self.marginal):.6g}, radius={self.radius:g} of {float(self.full_radius):.6g}, "
            f"N={len(self.points)}, link={self.link.name}, {self.space} [{a:g}, {b:g}])"
        )
