"""What held-out human pairs decide: whether a round is accepted, which radius it uses, and which policy is shipped."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from sgpo.errors import InputError
from sgpo.robust.ball import check_gaps
from sgpo.stats.temperature import ScaleFree, remove_scale, standard_error

LEVEL = 0.05
# With this many, a good run goes unrecognised half of the time if a quarter of the labels is flipped (docs/study.md).
ENOUGH_PAIRS = 50


class Decision(NamedTuple):
    """Whether a round is accepted.

    Attributes:
        accepted: keep the policy after the round; otherwise the one before it.
        reason: "pays", "no information" or "direction lost".
        change: mean calibrated log-likelihood after minus before, in nats per pair.
        standard_error: of `change`, paired by held-out pair.
        before, after: the gaps before and after, with their scale removed.
    """

    accepted: bool
    reason: str
    change: float
    standard_error: float
    before: ScaleFree
    after: ScaleFree


class Evidence(NamedTuple):
    """Evidence that held-out gaps agree with the human order.

    Attributes:
        score: standardised score of the temperature at 0: about standard normal where the gaps carry no information,
            positive where larger gaps agree with the human order.
        p_value: one-sided probability of a score this large from gaps without information.
    """

    score: float
    p_value: float


class Shipment(NamedTuple):
    """Which policy of a run is shipped.

    Attributes:
        place: index of the policy; None: ship the reference.
        evidence: for each policy, in order.
        thresholds: (K,) that the p-values had to stay below.
    """

    place: int | None
    evidence: list[Evidence]
    thresholds: np.ndarray


def accept_round(before_gaps: ArrayLike, after_gaps: ArrayLike, *, errors: float = 1.0) -> Decision:
    """Decides by held-out human pairs whether a round is accepted.

    A round is accepted where the gaps after it carry information about the human order (temperature above 0 by one
    standard error) and the calibrated likelihood has not fallen by more than `errors` paired standard errors. Only the
    direction counts: a round that moves the policy further in a direction it already knew is accepted.

    Args:
        before_gaps: (N,) gaps of held-out human pairs under the policy before the round, in nats; finite. All 0 for
            the reference itself.
        after_gaps: (N,) of the same pairs after it.
        errors: >= 0, the number of standard errors that the likelihood may fall.

    Raises:
        InputError: gaps that are empty, not finite or not of the same pairs; negative errors.

    Source: PAPER.md D8; the one-standard-error rule of Breiman et al., "Classification and Regression Trees" (1984).
    """
    if not errors >= 0:
        raise InputError(f"errors is {errors}; allowed: a number >= 0.")
    before, after = remove_scale(before_gaps), remove_scale(after_gaps)
    if before.losses.size != after.losses.size:
        raise InputError(
            f"after_gaps has {after.losses.size} pairs; allowed: those of before_gaps, {before.losses.size}."
        )
    gain = before.losses - after.losses
    change, error = float(gain.mean()), standard_error(gain)
    if not after.low > 0:
        return Decision(False, "no information", change, error, before, after)
    if change < -errors * error:
        return Decision(False, "direction lost", change, error, before, after)
    return Decision(True, "pays", change, error, before, after)


def choose_radius(before_gaps: ArrayLike, after_gaps: Sequence[ArrayLike], radii: Sequence[float]) -> int | None:
    """Index of the radius to use in a grid, by the one-standard-error rule; None where no round is accepted.

    Among the rounds that `accept_round` accepts, the smallest radius within one paired standard error of the best
    calibrated likelihood is chosen: robustness has a price, so that it must earn its place.

    Args:
        before_gaps: (N,) gaps of held-out human pairs before the round, in nats.
        after_gaps: (G, N) of the same pairs after a round with each radius.
        radii: (G,) the grid, which must hold 0.

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
        if not lost.mean() > standard_error(lost):
            return place
    return best


def evidence(gaps: ArrayLike, *, control: ArrayLike | None = None) -> Evidence:
    r"""Score test of c = 0 in  P(human order) = sigma(c * gap + b * control).

    With a control, such as the difference in length, only the information beyond it counts: annotators who prefer the
    longer response teach a policy to write long responses, and held-out pairs of the same annotators agree with it.
    b is fitted with c = 0, and the efficient score is the residual of the gaps after a regression on the control. Its
    variance is estimated by the sum of its squares, which needs no model of the noise.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards of held-out human pairs; finite, in any unit.
        control: (N,) chosen minus rejected value of what must not count, in any unit; finite.

    Raises:
        InputError: no gap, one that is not finite, or a control of another length.

    Source: D. R. Cox and D. V. Hinkley, "Theoretical statistics" (1974), 9.3; PAPER.md D8.
    """
    gaps = check_gaps(gaps)
    rest, residual = gaps, np.full(gaps.size, 0.5)
    if control is not None:
        control = check_gaps(control, "control")
        if control.size != gaps.size:
            raise InputError(f"control has {control.size} pairs; allowed: as many as gaps, {gaps.size}.")
        residual = expit(-_fit_slope(control))
        rest = _beyond(gaps, control, residual * (1 - residual))
    scores = rest * residual
    size = math.sqrt(float((scores**2).sum()))
    # The rounding error of gaps that equal the control is no evidence.
    if size <= 1e-9 * float(np.abs(gaps * residual).sum()) or size == 0:
        return Evidence(0.0, 0.5)
    score = float(scores.sum()) / size
    return Evidence(score, float(norm.sf(score)))


def latest_supported(gaps: Sequence[ArrayLike], *, control: ArrayLike | None = None, level: float = LEVEL) -> Shipment:
    """Selects the latest policy whose held-out gaps carry information about the human order.

    The evidence grows over the rounds where self-annotation carries the seeds' signal over to new prompts, and is lost
    where it does not. Stopping at the first round without evidence would discard runs whose seeds alone cannot show
    any yet. So all rounds are run and tested from the last one back: the last at `level`, each earlier one at half the
    level of its successor, so that a run without any signal ships a round with probability at most 2 * `level`.

    Args:
        gaps: (K, N) gaps of the same held-out human pairs under each policy, in the order of rounds.
        control: (N,) see `evidence`.
        level: of the last policy's test, in (0, 0.5).

    Raises:
        InputError: no policy, a level out of range, or as `evidence`.
    """
    if not 0 < level < 0.5:
        raise InputError(f"level is {level}; allowed: a number above 0 and below 0.5.")
    if len(gaps) == 0:
        raise InputError("gaps holds no policy; allowed: at least one row.")
    found = [evidence(row, control=control) for row in gaps]
    thresholds = level * 0.5 ** np.arange(len(found))[::-1]
    taken = [place for place, (one, bound) in enumerate(zip(found, thresholds, strict=True)) if one.p_value < bound]
    return Shipment(taken[-1] if taken else None, found, thresholds)


def _fit_slope(control: np.ndarray) -> np.ndarray:
    """b * control, (N,), with the b of least mean  -log sigma(b * control)."""
    largest = float(np.abs(control).max())
    if largest == 0:
        return np.zeros(control.size)
    unit = control / largest

    def score(slope: float) -> float:
        return float((unit * expit(-slope * unit)).sum())

    far = 1.0
    while score(far) > 0 and far < 1e3:
        far *= 2
    near = -1.0
    while score(near) < 0 and near > -1e3:
        near *= 2
    # Where all pairs agree with the control no finite slope is best; a steep one stands in for it.
    if score(far) > 0 or score(near) < 0:
        return (far if score(far) > 0 else near) * unit
    return brentq(score, near, far) * unit


def _beyond(gaps: np.ndarray, control: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Residual of the weighted regression of the gaps on the control, through the origin."""
    scale = float(weights @ control**2)
    return gaps if scale == 0 else gaps - float(weights @ (gaps * control)) / scale * control
