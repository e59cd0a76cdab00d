"""Self-annotation: from scored responses to preference pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from datasets import Dataset, Features, Value

from sgpo.errors import InputError
from sgpo.preferences.layout import PAIR_FEATURES

SCORES = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps", "gap")
FEATURES = Features({**PAIR_FEATURES, **dict.fromkeys(SCORES, Value("float64"))})
REASONS = ("identical", "unfinished", "empty", "tied")

Messages = Sequence[dict[str, str]]


class Candidate(Protocol):
    """What annotation needs to know of a response, as `sgpo.policy.generate.Response` has it."""

    text: str
    finish_reason: str


@dataclass(frozen=True)
class Annotation:
    """Self-annotated pairs.

    Attributes:
        pairs: `prompt`, `chosen`, `rejected`, the log-probabilities `chosen_logps`, `rejected_logps` (policy),
            `ref_chosen_logps`, `ref_rejected_logps` (reference) and the `gap`, in nats.
        counts: `prompts`, `responses`, `pairs` and `dropped`, the number of prompts left without a pair by reason;
            pairs and dropped add up to prompts.
    """

    pairs: Dataset
    counts: dict[str, Any]


def implicit_rewards(policy_logps: np.ndarray, reference_logps: np.ndarray, beta: float) -> np.ndarray:
    r"""Implicit rewards `R(x, y) = beta * [log pi(y|x) - log pi_ref(y|x)]`, (R,) in nats.

    Source: arXiv:2502.18099, Section 3.1.
    """
    return beta * (np.asarray(policy_logps, dtype=np.float64) - np.asarray(reference_logps, dtype=np.float64))


def annotate_pairs(
    prompts: Sequence[Messages],
    responses: Sequence[Sequence[Candidate]],
    rewards: np.ndarray,
    *,
    policy_logps: np.ndarray,
    reference_logps: np.ndarray,
    beta: float,
) -> Annotation:
    r"""Pairs the best response of each prompt with the worst.

    Of a prompt's responses, those that are unfinished (cut at the token limit), empty, or a repetition of an earlier
    one are left out. A prompt left with fewer than two is dropped, under the first of these reasons that brought it
    there; so is one whose best and worst rewards are equal.

    Args:
        prompts: P conversations that end in a user turn.
        responses: P lists of at least two responses; R in all.
        rewards: (R,) rewards of the responses, prompt by prompt; finite.
        policy_logps: (R,) summed log-probabilities under the policy, in nats; finite.
        reference_logps: (R,) the same under the reference.
        beta: > 0, the scale of the gap `beta * [(log pi - log pi_ref)(y_w) - (log pi - log pi_ref)(y_l)]`.

    Raises:
        InputError: an argument is out of range or of another length, or a number is not finite; the row is named.

    Source: arXiv:2502.18099, Algorithm 1, self-annotation.
    """
    arrays = _check_arguments(prompts, responses, rewards, policy_logps, reference_logps, beta)
    rewards, policy_logps, reference_logps = arrays
    margins = implicit_rewards(policy_logps, reference_logps, beta)
    dropped = dict.fromkeys(REASONS, 0)
    columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
    first = 0
    for messages, candidates in zip(prompts, responses, strict=True):
        places, reason = _eligible(candidates)
        places = first + np.array(places, dtype=np.int64)
        first += len(candidates)
        if reason is None:
            best, worst = places[rewards[places].argmax()], places[rewards[places].argmin()]
            reason = "tied" if rewards[best] == rewards[worst] else None
        if reason is not None:
            dropped[reason] += 1
            continue
        start = first - len(candidates)
        row = {
            "prompt": list(messages),
            "chosen": [{"role": "assistant", "content": candidates[best - start].text}],
            "rejected": [{"role": "assistant", "content": candidates[worst - start].text}],
            "chosen_logps": policy_logps[best],
            "rejected_logps": policy_logps[worst],
            "ref_chosen_logps": reference_logps[best],
            "ref_rejected_logps": reference_logps[worst],
            "gap": margins[best] - margins[worst],
        }
        for name, value in row.items():
            columns[name].append(value)
    pairs = Dataset.from_dict(columns, features=FEATURES)
    counts = {"prompts": len(prompts), "responses": len(rewards), "pairs": len(pairs), "dropped": dropped}
    return Annotation(pairs, counts)


def _eligible(candidates: Sequence[Candidate]) -> tuple[list[int], str | None]:
    """Places of the responses that can make a pair, and why there are fewer than two."""
    places = [place for place, candidate in enumerate(candidates) if candidate.finish_reason == "stop"]
    if len(places) < 2:
        return places, "unfinished"
    texts = [candidate.text.strip() for candidate in candidates]
    places = [place for place in places if texts[place]]
    if len(places) < 2:
        return places, "empty"
    places = list({texts[place]: place for place in reversed(places)}.values())[::-1]
    return places, "identical" if len(places) < 2 else None


def _check_arguments(
    prompts: Sequence[Messages],
    responses: Sequence[Sequence[Candidate]],
    rewards: np.ndarray,
    policy_logps: np.ndarray,
    reference_logps: np.ndarray,
    beta: float,
) -> list[np.ndarray]:
    if not (np.isfinite(beta) and beta > 0):
        raise InputError(f"beta is {beta}; allowed: a number > 0.")
    if len(responses) != len(prompts):
        raise InputError(f"responses has {len(responses)} rows; allowed: one per prompt, {len(prompts)}.")
    row_of = []
    for row, candidates in enumerate(responses):
        if len(candidates) < 2:
            raise InputError(f"responses row {row} has {len(candidates)} responses; allowed: at least two.")
        for candidate in candidates:
            if candidate.finish_reason not in ("stop", "length"):
                raise InputError(
                    f"responses row {row}: finish_reason is {candidate.finish_reason!r}; allowed: 'stop', 'length'."
                )
        row_of.extend((row, place) for place in range(len(candidates)))
    arrays = []
    for name, values in (("rewards", rewards), ("policy_logps", policy_logps), ("reference_logps", reference_logps)):
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (len(row_of),):
            raise InputError(f"{name} has the shape {values.shape}; allowed: one number per response, {len(row_of)}.")
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            row, place = row_of[bad[0]]
            raise InputError(f"{name} row {row}, response {place}: {values[bad[0]]}; allowed: a finite number.")
        arrays.append(values)
    return arrays
