"""How an implicit reward orders human pairs: how often as people did, by source and length, and with what confidence.

Source of the calibration: C. Guo et al., "On calibration of modern neural networks", ICML 2017; PAPER.md D8.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from sgpo.errors import InputError
from sgpo.robust.ball import check_gaps
from sgpo.stats.intervals import share_interval
from sgpo.stats.temperature import Temperature, fit_temperature

# Bins of equal width of the confidence, 0.5 to 1; and bins by length, of about as many pairs, equal ones together.
BINS, LENGTH_BINS = 10, 5


class RankingAccuracy(NamedTuple):
    """Share of pairs ordered as people ordered them, with its 95% interval."""

    accuracy: float
    low: float
    high: float
    pairs: int


class LengthBin(NamedTuple):
    """Pairs whose chosen response is longer than the rejected one by `shortest` to `longest`, in the lengths' unit."""

    shortest: float
    longest: float
    accuracy: RankingAccuracy


class Bin(NamedTuple):
    """Pairs whose confidence sigma(|gap|) lies in one bin: its mean, and how often their order is right."""

    confidence: float
    accuracy: float
    low: float
    high: float
    pairs: int


class Calibration(NamedTuple):
    """Reliability of sigma(|gap|) as the probability that the order is right: the filled bins, the expected calibration
    error (not 0 for calibrated gaps either: bins have sampling errors), the scale that calibrates the gaps, and the
    error of the gaps times it, nan where it is infinite or <= 0."""

    bins: list[Bin]
    error: float
    temperature: Temperature
    error_scaled: float


class PreferenceReport(NamedTuple):
    """What held-out pairs say of a policy's implicit reward: accuracy over all, by source in the order in which they
    come, and by length difference, ascending (each empty where none was given), and the reliability of sigma(gap)."""

    overall: RankingAccuracy
    by_source: dict[str, RankingAccuracy]
    by_length: list[LengthBin]
    calibration: Calibration


def ranking_accuracy(gaps: ArrayLike) -> RankingAccuracy:
    """Share of positive gaps; a gap of exactly zero ranks nothing and counts half.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards, any scale; finite.

    Raises:
        InputError: no gap, or one that is not finite.
    """
    gaps = check_gaps(gaps)
    shares = (gaps > 0) + 0.5 * (gaps == 0)
    return RankingAccuracy(float(shares.mean()), *share_interval(shares), int(gaps.size))


def report_preferences(
    gaps: ArrayLike,
    *,
    sources: Sequence[str] | None = None,
    length_differences: ArrayLike | None = None,
) -> PreferenceReport:
    """Accuracy and calibration of implicit rewards on held-out pairs, each with 95% intervals.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards, in nats; finite. A gap of 0 counts half.
        sources: (N,) where each pair comes from.
        length_differences: (N,) length of the chosen response minus that of the rejected one, in any unit; finite.

    Raises:
        InputError: arrays of other lengths, no gap, or numbers that are not finite.
    """
    gaps = check_gaps(gaps)
    return PreferenceReport(
        overall=ranking_accuracy(gaps),
        by_source={} if sources is None else _by_source(gaps, sources),
        by_length=[] if length_differences is None else _by_length(gaps, length_differences),
        calibration=_calibrate(gaps),
    )


def _by_source(gaps: np.ndarray, sources: Sequence[str]) -> dict[str, RankingAccuracy]:
    if len(sources) != len(gaps):
        raise InputError(f"sources has {len(sources)} rows; allowed: {len(gaps)}, one for each gap.")
    for row, source in enumerate(sources):
        if not isinstance(source, str):
            raise InputError(f"sources row {row} is {source!r}; allowed: a string.")
    named = np.asarray(sources)
    return {source: ranking_accuracy(gaps[named == source]) for source in dict.fromkeys(sources)}


def _by_length(gaps: np.ndarray, differences: ArrayLike) -> list[LengthBin]:
    differences = check_gaps(differences, "length_differences")
    if differences.shape != gaps.shape:
        raise InputError(f"length_differences has shape {differences.shape}; allowed: {gaps.shape}, one for each gap.")
    edges = np.quantile(differences, np.arange(1, LENGTH_BINS) / LENGTH_BINS)
    place = np.searchsorted(edges, differences, side="left")
    parts = [place == at for at in np.unique(place)]
    return [
        LengthBin(float(differences[part].min()), float(differences[part].max()), ranking_accuracy(gaps[part]))
        for part in parts
    ]


def _calibrate(gaps: np.ndarray) -> Calibration:
    filled, temperature = _fill_bins(gaps), fit_temperature(gaps)
    usable = math.isfinite(temperature.scale) and temperature.scale > 0
    scaled = _error(_fill_bins(temperature.scale * gaps)) if usable else math.nan
    return Calibration(filled, _error(filled), temperature, scaled)


def _fill_bins(gaps: np.ndarray) -> list[Bin]:
    confidence = expit(np.abs(gaps))
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    parts = [place == at for at in np.unique(place)]
    return [Bin(float(confidence[part].mean()), *ranking_accuracy(gaps[part])) for part in parts]


def _error(bins: list[Bin]) -> float:
    pairs = sum(part.pairs for part in bins)
    return sum(part.pairs * abs(part.accuracy - part.confidence) for part in bins) / pairs
