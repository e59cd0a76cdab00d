"""Which policy of a run to ship: the latest one that held-out human pairs vouch for."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from sgpo.errors import InputError
from sgpo.stats.temperature import check_gaps

LEVEL = 0.05
# With as many a good run goes unseen half of the time where a quarter of the labels is turned round (docs/study.md).
ENOUGH_PAIRS = 50


class Evidence(NamedTuple):
    """What held-out gaps say of the human order.

    Attributes:
        score: standardised score of the temperature at 0: about standard normal where the gaps say nothing, above 0
            where larger gaps go with the human order.
        p_value: one-sided, that a score as large comes from gaps that say nothing.
    """

    score: float
    p_value: float


class Shipment(NamedTuple):
    """Which policy of a run is shipped.

    Attributes:
        place: index of the policy; None: none of them, ship the reference.
        evidence: of each policy, in order.
        thresholds: (K,) what each p-value had to stay below.
    """

    place: int | None
    evidence: list[Evidence]
    thresholds: np.ndarray


def evidence(gaps: ArrayLike, *, control: ArrayLike | None = None) -> Evidence:
    r"""Score test of c = 0 in  P(human order) = sigma(c * gap + b * control).

    With a control, such as how much longer the chosen response is, only what the gaps say beyond it counts: annotators
    who take the longer response teach a policy to write long, and held-out pairs of the same annotators agree with it.
    b is fitted with c = 0, and the efficient score is what remains of the gaps after a regression on the control; its
    variance is estimated by the sum of its squares, which needs no model of the noise.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards of held-out human pairs; finite, in any unit.
        control: (N,) chosen minus rejected of what must not count, in any unit; finite.

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
    # What rounding leaves of gaps that are the control itself is not evidence.
    if size <= 1e-9 * float(np.abs(gaps * residual).sum()) or size == 0:
        return Evidence(0.0, 0.5)
    score = float(scores.sum()) / size
    return Evidence(score, float(norm.sf(score)))


def latest_supported(gaps: Sequence[ArrayLike], *, control: ArrayLike | None = None, level: float = LEVEL) -> Shipment:
    """The latest policy whose held-out gaps carry information about the human order; None where none does.

    The evidence of a run grows with its rounds where self-annotation carries the seeds' signal over to new prompts, and
    is lost where it does not. To stop at the first round without evidence throws away runs whose seeds alone could not
    show any yet. So all rounds are run, and looked at from the last one back; the last is tested at `level`, each one
    before it at half the level of its successor, so that all together mistake noise for a signal in at most twice
    `level` of runs.

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
    # Where all pairs go one way along the control no slope is best; a steep one stands for it.
    if score(far) > 0 or score(near) < 0:
        return (far if score(far) > 0 else near) * unit
    return brentq(score, near, far) * unit


def _beyond(gaps: np.ndarray, control: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Gaps less their weighted regression on the control, through the origin."""
    scale = float(weights @ control**2)
    return gaps if scale == 0 else gaps - float(weights @ (gaps * control)) / scale * control
