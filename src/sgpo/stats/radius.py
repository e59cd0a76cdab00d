"""A radius that follows the shift: measured between human and self-annotated gaps, or chosen by held-out human pairs.

Fixed radii do not follow the shift, a limitation that arXiv:2502.18099 names; PAPER.md D7, D8.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import wasserstein_distance

from sgpo.errors import InputError
from sgpo.robust.link import make_link
from sgpo.stats.temperature import check_gaps, fit_temperature

_ONE_ERROR = 0.6826894921370859


class Calibration(NamedTuple):
    """Held-out human gaps with their scale taken out.

    Attributes:
        temperature: c, the scale at which sigma(c * gap) fits the human order best; <= 0: no information. inf or -inf
            where all gaps have one sign.
        low: its lower end at one standard error (the score interval of `fit_temperature`); above 0 the gaps carry
            information about the human order by one standard error.
        nll: mean of -log sigma(c * gap) at max(c, 0), in nats; at most log 2.
        standard_error: of `nll` over the pairs, in nats; nan for one pair.
        deflated: the same at min(max(c, 0), 1): gaps that are too large are forgiven, gaps that are too small are not.
        accuracy: share of positive gaps, zeros counted half.
        losses: (N,) the losses that `nll` is the mean of.
    """

    temperature: float
    low: float
    nll: float
    standard_error: float
    deflated: float
    accuracy: float
    losses: np.ndarray


class Decision(NamedTuple):
    """Whether a round is taken.

    Attributes:
        accepted: take the policy after the round; otherwise keep the one before.
        reason: "pays", "no information" or "direction lost".
        change: mean calibrated log-likelihood after less before, in nats per pair.
        standard_error: of `change`, paired by held-out pair.
        before, after: the two calibrations.
    """

    accepted: bool
    reason: str
    change: float
    standard_error: float
    before: Calibration
    after: Calibration


def measured_radius(human_gaps: ArrayLike, self_gaps: ArrayLike, *, space: str, factor: float = 1.0) -> float:
    """W1 between the laws of human and self-annotated gaps, times a factor, in the unit of the gap space.

    With factor 1 the ball around the self-annotated law just reaches the held-out human one, so that the robust value
    bounds the human pairs' mean loss (on a window that holds both laws; `sgpo.stats.certificate`).

    Args:
        human_gaps: (N,) beta-scaled reward differences of held-out human pairs, in nats; finite.
        self_gaps: (M,) of self-annotated pairs under the same policy.
        space: "margin" or "probability", where distance is measured.
        factor: >= 0.

    Raises:
        InputError: no gap, one that is not finite, an unknown space or a negative factor.

    Source: PAPER.md D7.
    """
    if not (math.isfinite(factor) and factor >= 0):
        raise InputError(f"factor is {factor}; allowed: a finite number >= 0.")
    link = make_link(space)
    human, own = check_gaps(human_gaps, "human_gaps"), check_gaps(self_gaps, "self_gaps")
    return factor * float(wasserstein_distance(link.to_space(human), link.to_space(own)))


def calibrate(gaps: ArrayLike) -> Calibration:
    """Separates what held-out gaps say of the order from how large they are.

    Self-annotation inflates the scale of the gaps, so the plain log-likelihood of noisy human pairs falls even where
    their order is right; the calibrated one does not change when all gaps are multiplied by a number.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards of held-out human pairs, in nats; finite.

    Raises:
        InputError: no gap, or one that is not finite.

    Source: PAPER.md D8.
    """
    gaps = check_gaps(gaps)
    fit = fit_temperature(gaps, level=_ONE_ERROR)
    if math.isinf(fit.scale):
        losses = np.where(gaps == 0, math.log(2), 0.0) if fit.scale > 0 else np.full(gaps.size, math.log(2))
    else:
        losses = np.logaddexp(0.0, -max(fit.scale, 0.0) * gaps)
    error = float(losses.std(ddof=1)) / math.sqrt(gaps.size) if gaps.size > 1 else math.nan
    accuracy = float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))
    deflated = float(np.logaddexp(0.0, -min(max(fit.scale, 0.0), 1.0) * gaps).mean())
    return Calibration(fit.scale, fit.low, float(losses.mean()), error, deflated, accuracy, losses)


def accept_round(before_gaps: ArrayLike, after_gaps: ArrayLike, *, errors: float = 1.0) -> Decision:
    """Decides by held-out human pairs whether a round is taken.

    A round is taken where the gaps after it carry information about the human order (temperature above 0 by one
    standard error), and where the calibrated likelihood has not fallen by more than `errors` paired standard errors.
    Only the direction is judged: a round that repeats what the policy knew and moves further in it is taken.

    Args:
        before_gaps: (N,) gaps of held-out human pairs under the policy before the round, in nats; finite. All 0 for
            the reference itself.
        after_gaps: (N,) of the same pairs after it.
        errors: >= 0, how many standard errors may be lost.

    Raises:
        InputError: gaps that are empty, not finite or not of the same pairs; negative errors.

    Source: PAPER.md D8; the one-standard-error rule of Breiman et al., "Classification and Regression Trees" (1984).
    """
    if not errors >= 0:
        raise InputError(f"errors is {errors}; allowed: a number >= 0.")
    before, after = calibrate(before_gaps), calibrate(after_gaps)
    if before.losses.size != after.losses.size:
        raise InputError(
            f"after_gaps has {after.losses.size} pairs; allowed: those of before_gaps, {before.losses.size}."
        )
    gain = before.losses - after.losses
    change = float(gain.mean())
    error = float(gain.std(ddof=1)) / math.sqrt(gain.size) if gain.size > 1 else math.nan
    if not after.low > 0:
        return Decision(False, "no information", change, error, before, after)
    if change < -errors * error:
        return Decision(False, "direction lost", change, error, before, after)
    return Decision(True, "pays", change, error, before, after)


def choose_radius(before_gaps: ArrayLike, after_gaps: Sequence[ArrayLike], radii: Sequence[float]) -> int | None:
    """The place in a grid of the radius to take, by the one-standard-error rule; None where no round pays.

    Among the rounds that `accept_round` takes, the best calibrated likelihood sets the mark, and the smallest radius
    within one paired standard error of it is chosen: robustness has a price, so it must show what it is for.

    Args:
        before_gaps: (N,) gaps of held-out human pairs before the round, in nats.
        after_gaps: (G, N) of the same pairs after a round with each radius.
        radii: (G,) the grid, which holds 0.

    Raises:
        InputError: a grid without 0 or of another length, or as `accept_round`.

    Source: arXiv:2502.18099 names the fixed radius as a limit; PAPER.md D8.
    """
    if len(radii) != len(after_gaps) or 0 not in radii:
        raise InputError(f"radii is {list(radii)} for {len(after_gaps)} policies; allowed: one each, and 0 among them.")
    decisions = [accept_round(before_gaps, gaps) for gaps in after_gaps]
    taken = [place for place, decision in enumerate(decisions) if decision.accepted]
    if not taken:
        return None
    best = max(taken, key=lambda place: decisions[place].change)
    for place in sorted(taken, key=lambda place: radii[place]):
        lost = decisions[place].after.losses - decisions[best].after.losses
        error = float(lost.std(ddof=1)) / math.sqrt(lost.size) if lost.size > 1 else math.nan
        if not lost.mean() > error:
            return place
    return best
