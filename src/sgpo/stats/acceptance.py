"""What held-out human pairs decide: whether a round is accepted, which radius it uses, and which policy is shipped."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from scipy.stats import norm

from sgpo.errors import InputError
from sgpo.robust.ball import check_gaps
from sgpo.stats.intervals import standard_error
from sgpo.stats.temperature import ONE_ERROR, calibrated_losses, fit_temperature

ERROR_LEVEL = 0.05
# With this many, a good run goes unrecognised half of the time if a quarter of the labels is flipped (docs/study.md).
ENOUGH_PAIRS = 50


class Acceptance(NamedTuple):
    """Whether a round is accepted, and why ("pays", "no information", "direction lost"): the mean change of calibrated
    log-likelihood in nats per pair, its paired standard error, and the (N,) calibrated losses after it."""

    accepted: bool
    reason: str
    change: float
    standard_error: float
    losses: np.ndarray


class ScoreTest(NamedTuple):
    """How well held-out gaps agree with the human order: a score that is about standard normal where they carry no
    information, positive where larger gaps agree, and the one-sided probability of one this large."""

    score: float
    p_value: float


class Shipment(NamedTuple):
    """Which policy is shipped, by its place (None: the reference); evidence and (K,) bound of the p-value of each."""

    place: int | None
    evidence: list[ScoreTest]
    thresholds: np.ndarray


def accept_round(before_gaps: ArrayLike, after_gaps: ArrayLike) -> Acceptance:
    """Accepts a round, by gaps (N,) of human pairs in nats before and after it, if the gaps after it carry information
    (temperature above 0 by one standard error) and the calibrated likelihood has not fallen by more than one paired
    standard error (Breiman et al., 1984): only the direction counts (PAPER.md D8)."""
    before, after = check_gaps(before_gaps, "before_gaps"), check_gaps(after_gaps, "after_gaps")
    if before.size != after.size:
        raise InputError(f"after_gaps has {after.size} pairs; allowed: those of before_gaps, {before.size}.")
    fit = fit_temperature(after, level=ONE_ERROR)
    losses = calibrated_losses(after, fit.scale)
    gain = calibrated_losses(before, fit_temperature(before).scale) - losses
    change, error = float(gain.mean()), standard_error(gain)
    reason = "no information" if not fit.low > 0 else "direction lost" if change < -error else "pays"
    return Acceptance(reason == "pays", reason, change, error, losses)


def choose_radius(rounds: Sequence[Acceptance], radii: Sequence[float]) -> int | None:
    """Index of the radius to use, given one decision per radius; None where no round is accepted. The smallest within
    one paired standard error of the best calibrated likelihood: a larger one must be clearly better (PAPER.md D8)."""
    accepted = [place for place, decision in enumerate(rounds) if decision.accepted]
    if not accepted:
        return None
    best = max(accepted, key=lambda place: rounds[place].change)

    def lags(place: int) -> bool:
        lost = rounds[place].losses - rounds[best].losses
        return lost.mean() > standard_error(lost)

    return next(place for place in sorted(accepted, key=lambda place: radii[place]) if not lags(place))


def evidence(gaps: ArrayLike, *, control: ArrayLike | None = None) -> ScoreTest:
    """Score test of c = 0 in P(human order) = sigma(c * gap + b * control), gaps and control, such as lengths, (N,) in
    any unit: b is fitted with c = 0, and the efficient score is the residual of a weighted regression on the control,
    its variance the sum of squares. Source: Cox and Hinkley, "Theoretical statistics" (1974), 9.3; PAPER.md D8."""
    gaps = check_gaps(gaps)
    rest, residual = gaps, np.full(gaps.size, 0.5)
    if control is not None:
        control = check_gaps(control, "control")
        if control.size != gaps.size:
            raise InputError(f"control has {control.size} pairs; allowed: as many as gaps, {gaps.size}.")
        # Where all pairs agree with the control, no finite slope is optimal; a large one is used instead.
        steepest = 1024 / (np.abs(control).max() or 1.0)
        residual = expit(-np.clip(fit_temperature(control).scale, -steepest, steepest) * control)
        weights = residual * (1 - residual)
        scale = float(weights @ control**2)
        rest = gaps if scale == 0 else gaps - float(weights @ (gaps * control)) / scale * control
    scores = rest * residual
    size = math.sqrt(float((scores**2).sum()))
    # The rounding error of gaps that equal the control is no evidence.
    if size <= 1e-9 * float(np.abs(gaps * residual).sum()) or size == 0:
        return ScoreTest(0.0, 0.5)
    score = float(scores.sum()) / size
    return ScoreTest(score, float(norm.sf(score)))


def smallest_p_value(pairs: int) -> float:
    """The smallest p-value that `evidence` can have: N pairs that agree alike have a score of sqrt(N), the largest."""
    return float(norm.sf(math.sqrt(pairs)))


def latest_supported(gaps: Sequence[ArrayLike], *, control: ArrayLike | None = None) -> Shipment:
    """Selects the latest of K policies whose gaps (K, N) carry information: the first without any need not be the last
    with some. The last is tested at ERROR_LEVEL, each earlier one at half the level of its successor, so that a run
    without any signal ships a round with probability at most 2 * ERROR_LEVEL."""
    if len(gaps) == 0:
        raise InputError("gaps holds no policy; allowed: at least one row.")
    found = [evidence(row, control=control) for row in gaps]
    thresholds = ERROR_LEVEL * 0.5 ** np.arange(len(found))[::-1]
    taken = [place for place, (one, bound) in enumerate(zip(found, thresholds, strict=True)) if one.p_value < bound]
    return Shipment(taken[-1] if taken else None, found, thresholds)


def describe_few(pairs: int, enough: int = ENOUGH_PAIRS) -> str:
    """What so few pairs to choose a round by do to the test, as part of a sentence; empty if there are enough."""
    return f"with fewer than {enough} pairs the test often misses a good round" if pairs < enough else ""
