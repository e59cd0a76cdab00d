"""The shift between self-annotated and human gaps: its size as a radius, and what a ball of that radius guarantees.

A fixed radius does not follow the shift, a limitation that arXiv:2502.18099 names; PAPER.md D7.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, wasserstein_distance

from sgpo.choices import Space
from sgpo.errors import InputError
from sgpo.robust.ball import check_gaps, check_inside
from sgpo.robust.exact import worst_case
from sgpo.robust.link import Link, make_link

_ROUNDING = 1e-12
_ONE_SIDED = float(norm.ppf(0.95))


class RobustCertificate(NamedTuple):
    """A lower bound on the human pairs' mean log-likelihood, in nats (the own pairs' mean is `own`); `looseness` is
    human - bound, `slack` 1.64 standard errors of `human`, nan for one pair, and population_bound is bound - slack.
    Radius, window and price (nats per unit) are in the unit of the gap space."""

    bound: float
    radius: float
    human: float
    own: float
    looseness: float
    population_bound: float
    slack: float
    price: float
    space: str
    window: tuple[float, float]


def measured_radius(human_gaps: ArrayLike, self_gaps: ArrayLike, *, space: Space) -> float:
    """W1 between the laws of human gaps (N,) and self-annotated gaps (M,), in the unit of the gap space: a ball of that
    radius around the own law just reaches the human one, and its robust value bounds the human mean loss."""
    link = make_link(space)
    human, own = check_gaps(human_gaps, "human_gaps"), check_gaps(self_gaps, "self_gaps")
    return float(wasserstein_distance(link.to_space(human), link.to_space(own)))


def certify_policy(
    human_gaps: ArrayLike,
    own_gaps: ArrayLike,
    *,
    space: Space = "probability",
    window: Sequence[float] | None = None,
) -> RobustCertificate:
    r"""Certifies the mean log-likelihood of held-out human pairs by the worst case around self-annotated ones.

    The law of the human gaps lies in the ball around the law of the own gaps whose radius is their distance, and in
    the window; the worst case over that ball is therefore no better than it:  `mean log sigma(human) >= -V(radius)`.
    For the held-out sample this holds exactly, since radius and V belong to the two samples themselves. The link is
    the exact loss: tangents underestimate it and would certify nothing.

    It does not cover another policy (both laws move with it), human pairs from another source, or the human population,
    whose sample also measured the radius. `population_bound` subtracts the one-sided sampling error of the mean, by the
    central limit theorem; it misses rare gaps that no sample holds. The sample's own mean is the better estimate; the
    bound states what robust training guarantees, and `looseness` its price.

    Args:
        human_gaps: (N,) gaps of held-out human pairs under the policy, in nats; finite.
        own_gaps: (M,) gaps of self-annotated pairs under the same policy, in nats; finite.
        space: "margin" or "probability", where distance is measured.
        window: (a, b) that holds both supports, in the unit of the space; None: the smallest that does. A lower a can
            only lower the bound. In probability space a > 0.

    Raises:
        InputError: no gap, one that is not finite or outside the window, or a window where the loss is infinite.

    Source: arXiv:2502.18099, Theorem 3.3; PAPER.md D7.
    """
    link = make_link(space)
    human, own = _points(human_gaps, "human_gaps", link), _points(own_gaps, "own_gaps", link)
    if window is None:
        low, high = min(human.min(), own.min()), max(human.max(), own.max())
        # A window needs a width, even if all gaps are equal.
        window = low, max(high, np.nextafter(low, math.inf))
    window = float(window[0]), float(window[1])
    for points, name in ((human, "human_gaps"), (own, "own_gaps")):
        check_inside(points, window, False, name, "a window that holds both laws, for the bound covers no other")
    radius = float(wasserstein_distance(human, own))
    likelihoods = -link.value(human)
    # Rounded up: the bound is attained if the human law is the worst one in the ball.
    worst = worst_case(own_gaps, radius * (1 + _ROUNDING), space=space, window=window)
    mean, bound = float(likelihoods.mean()), -float(worst.value)
    spread = float(likelihoods.std(ddof=1)) if human.size > 1 else math.nan
    slack = _ONE_SIDED * spread / math.sqrt(human.size)
    return RobustCertificate(
        bound=bound,
        radius=radius,
        human=mean,
        own=-float(worst.empirical_value),
        looseness=mean - bound,
        population_bound=bound - slack,
        slack=slack,
        price=float(worst.price),
        space=space,
        window=window,
    )


def _points(gaps: ArrayLike, name: str, link: Link) -> np.ndarray:
    array = check_gaps(gaps, name)
    points = link.to_space(array)
    infinite = np.flatnonzero(~np.isfinite(link.value(points)))
    if infinite.size:
        row = infinite[0]
        raise InputError(f"{name}[{row}] is {array[row]}, whose loss is infinite; allowed: gaps above -700.")
    return points
