"""A policy on held-out human pairs: its implicit rewards, and its robust certificate."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from sgpo.errors import InputError
from sgpo.policy.load import Policy
from sgpo.policy.score import Scores, score_responses
from sgpo.preferences.annotate import implicit_rewards
from sgpo.stats.certificate import RobustCertificate, certify_policy
from sgpo.stats.ranking import PreferenceReport, report_preferences

SIDES = ("chosen", "rejected")


class PairScores(NamedTuple):
    """(N,) summed log-probabilities of chosen and rejected responses, in nats, and their numbers of tokens."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_tokens: np.ndarray
    rejected_tokens: np.ndarray


class HeldOutReport(NamedTuple):
    """Accuracy and calibration on held-out pairs, and the certificate where self-annotated pairs were given."""

    preferences: PreferenceReport
    certificate: RobustCertificate | None


def score_pairs(
    policy: Policy, pairs: Dataset, *, max_length: int | None = None, progress: Callable[[int], None] | None = None
) -> PairScores:
    """Scores both responses of N pairs under a policy.

    Args:
        policy: who scores.
        pairs: columns prompt, chosen, rejected, as `sgpo.preferences.source.load_pairs` returns them.
        max_length: tokens at which prompt and response together are cut; None cuts nothing.
        progress: called with the number of responses newly scored.

    Raises:
        InputError: see `score_responses`.
    """
    texts = [row[0]["content"] for side in SIDES for row in pairs[side]]
    scores: Scores = score_responses(policy, pairs["prompt"][:] * 2, texts, max_length=max_length, progress=progress)
    count = len(pairs)
    return PairScores(scores.logps[:count], scores.logps[count:], scores.n_tokens[:count], scores.n_tokens[count:])


def implicit_gaps(policy: PairScores, reference: PairScores, beta: float) -> np.ndarray:
    """(N,) chosen minus rejected implicit rewards, in nats.

    Raises:
        InputError: beta is not > 0.
    """
    if not beta > 0:
        raise InputError(f"beta is {beta}; allowed: a number > 0.")
    chosen, rejected = (implicit_rewards(getattr(policy, side), getattr(reference, side), beta) for side in SIDES)
    return chosen - rejected


def report_held_out(
    gaps: np.ndarray,
    scores: PairScores,
    *,
    sources: Sequence[str] | None = None,
    own_gaps: np.ndarray | None = None,
    space: str = "probability",
) -> HeldOutReport:
    """Reports a policy's gaps on held-out human pairs.

    Args:
        gaps: (N,) of the human pairs, in nats.
        scores: of the same pairs; their numbers of tokens are the lengths.
        sources: (N,) where each pair comes from.
        own_gaps: (M,) of self-annotated pairs under the same policy, in nats; None: no certificate.
        space: the certificate's gap space.

    Raises:
        InputError: see `report_preferences` and `certify_policy`.
    """
    differences = scores.chosen_tokens - scores.rejected_tokens
    report = report_preferences(gaps, sources=sources, length_differences=differences)
    certificate = None if own_gaps is None else certify_policy(gaps, own_gaps, space=space)
    return HeldOutReport(report, certificate)


def pair_sources(pairs: Dataset, column: str | None, name: str) -> list[str] | None:
    """The source of each pair.

    Args:
        pairs: N pairs.
        column: which column says so; None takes "source" where there is one of texts.
        name: of the dataset, in messages.

    Returns: (N,) texts, or None where none are known.

    Raises:
        InputError: there is no such column, or it does not hold texts.
    """
    if column is None and "source" not in pairs.column_names:
        return None
    wanted = column or "source"
    if wanted not in pairs.column_names:
        raise InputError(f"{name} has the columns {', '.join(pairs.column_names)}; allowed: one named {wanted!r}.")
    values = pairs[wanted][:]
    if all(isinstance(value, str) for value in values):
        return values
    if column is None:
        return None
    row = next(row for row, value in enumerate(values) if not isinstance(value, str))
    raise InputError(f"{name} row {row}: {column!r} is {values[row]!r}; allowed: a text.")
