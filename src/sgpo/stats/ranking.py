"""How often an implicit reward orders human pairs as people did: overall, by source and by length difference."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sgpo.errors import InputError
from sgpo.robust.ball import check_gaps
from sgpo.stats.calibration import Calibration, calibrate
from sgpo.stats.intervals import share_interval


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


class PreferenceReport(NamedTuple):
    """What held-out pairs say of a policy's implicit reward.

    Attributes:
        overall: accuracy over all pairs.
        by_source: accuracy by source, in the order in which sources come; empty where none were given.
        by_length: accuracy by length difference, ascending; empty where no lengths were given. A reward that likes
            length is right where the chosen response is the longer one and wrong where it is not.
        calibration: reliability of sigma(gap).
    """

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
    length_bins: int = 5,
    bins: int = 10,
) -> PreferenceReport:
    """Accuracy and calibration of implicit rewards on held-out pairs, each with 95% intervals.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards, in nats; finite. A gap of 0 counts half.
        sources: (N,) where each pair comes from.
        length_differences: (N,) length of the chosen response minus that of the rejected one, in any unit; finite.
        length_bins: bins of about as many pairs each; equal differences share a bin.
        bins: bins of the calibration.

    Raises:
        InputError: arrays of other lengths, no gap, numbers that are not finite, or no bin.
    """
    gaps = check_gaps(gaps)
    calibration = calibrate(gaps, bins=bins)
    return PreferenceReport(
        overall=ranking_accuracy(gaps),
        by_source={} if sources is None else _by_source(gaps, sources),
        by_length=[] if length_differences is None else _by_length(gaps, length_differences, length_bins),
        calibration=calibration,
    )


def _by_source(gaps: np.ndarray, sources: Sequence[str]) -> dict[str, RankingAccuracy]:
    if len(sources) != len(gaps):
        raise InputError(f"sources has {len(sources)} rows; allowed: {len(gaps)}, one for each gap.")
    for row, source in enumerate(sources):
        if not isinstance(source, str):
            raise InputError(f"sources row {row} is {source!r}; allowed: a string.")
    named = np.asarray(sources)
    return {source: ranking_accuracy(gaps[named == source]) for source in dict.fromkeys(sources)}


def _by_length(gaps: np.ndarray, differences: ArrayLike, length_bins: int) -> list[LengthBin]:
    differences = check_gaps(differences, "length_differences")
    if differences.shape != gaps.shape:
        raise InputError(f"length_differences has shape {differences.shape}; allowed: {gaps.shape}, one for each gap.")
    if isinstance(length_bins, bool) or not isinstance(length_bins, int) or length_bins < 1:
        raise InputError(f"length_bins is {length_bins!r}; allowed: an integer >= 1.")
    edges = np.quantile(differences, np.arange(1, length_bins) / length_bins)
    place = np.searchsorted(edges, differences, side="left")
    parts = [place == at for at in np.unique(place)]
    return [
        LengthBin(float(differences[part].min()), float(differences[part].max()), ranking_accuracy(gaps[part]))
        for part in parts
    ]
