"""Self-annotation: from scored responses to preference pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value, concatenate_datasets

from sgpo.choices import PairChoice, check_choice
from sgpo.errors import InputError, check_whole
from sgpo.policy.sampling import FinishReason, Response
from sgpo.policy.tokens import Messages
from sgpo.preferences.layout import PAIR_FEATURES
from sgpo.preferences.pairing import choose_pairs

SCORES = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps", "gap", "reward_margin")
FEATURES = Features({**PAIR_FEATURES, **dict.fromkeys(SCORES, Value("float64"))})
REASONS = ("identical", "unfinished", "empty", "unranked", "tied", "close")
_BLOCK = 4096


@dataclass(frozen=True)
class Annotation:
    """Self-annotated pairs.

    Attributes:
        pairs: `prompt`, `chosen`, `rejected`, the log-probabilities `chosen_logps`, `rejected_logps` (policy),
            `ref_chosen_logps`, `ref_rejected_logps` (reference), the `gap`, in nats, and `reward_margin`, the chosen
            response's reward minus the rejected one's.
        counts: `prompts`, `responses`, `paired` (prompts with a pair), `pairs`, and `dropped`, the number of prompts
            without a pair by reason: paired and dropped add up to prompts. `dropped_pairs` counts the chosen pairs that
            are tied or too close, whether or not their prompt has another pair.
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
    responses: Sequence[Sequence[Response]],
    rewards: np.ndarray,
    *,
    policy_logps: np.ndarray,
    reference_logps: np.ndarray,
    beta: float,
    choice: str = "best_worst",
    min_margin: float = 0.0,
    seed: int = 0,
) -> Annotation:
    r"""Makes preference pairs of the responses to each prompt.

    Responses that are unfinished (cut at the token limit), empty, duplicates or without a reward are excluded; of
    duplicates the first with a reward stays. A prompt left with fewer than two is dropped under the first of these
    reasons that left it so. Pairs of equal rewards are dropped as tied, and pairs whose rewards differ by no more than
    `min_margin` as close; a prompt left without a pair counts as close if one of its pairs was.

    Args:
        prompts: P conversations that end in a user turn.
        responses: P lists of at least two responses; R in all.
        rewards: (R,) rewards of the responses, prompt by prompt; finite, or nan for none.
        policy_logps: (R,) summed log-probabilities under the policy, in nats; finite.
        reference_logps: (R,) the same under the reference.
        beta: > 0, the scale of the gap `beta * [(log pi - log pi_ref)(y_w) - (log pi - log pi_ref)(y_l)]`.
        choice: "best_worst", "best_random" (the best and one of those below it), or "all".
        min_margin: >= 0, in the unit of the rewards.
        seed: of the random choice, >= 0; each prompt draws by its row.

    Raises:
        InputError: an argument is out of range or of another length, or a number is not finite; the row is named.

    Source: arXiv:2502.18099, Algorithm 1, self-annotation.
    """
    check_choice("choice", choice, PairChoice)
    if not (np.isfinite(min_margin) and min_margin >= 0):
        raise InputError(f"min_margin is {min_margin}; allowed: a number >= 0.")
    check_whole("seed", seed, 0)
    arrays = _check_arguments(prompts, responses, rewards, policy_logps, reference_logps, beta)
    rewards, policy_logps, reference_logps = arrays
    margins = implicit_rewards(policy_logps, reference_logps, beta)
    dropped, dropped_pairs = dict.fromkeys(REASONS, 0), dict.fromkeys(("tied", "close"), 0)
    columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
    end = paired = 0
    for row, (messages, candidates) in enumerate(zip(prompts, responses, strict=True)):
        start, end = end, end + len(candidates)
        places, reason = _eligible(candidates, rewards[start:end])
        kept: list[tuple[int, int]] = []
        if reason is None:
            places = start + np.array(places)
            reason = "tied"
            for pair in choose_pairs(rewards[places], choice, np.random.default_rng([seed, row])):
                better, worse = places[list(pair)]
                if rewards[better] - rewards[worse] > min_margin:
                    kept.append((better, worse))
                elif rewards[better] > rewards[worse]:
                    reason = "close"
                    dropped_pairs["close"] += 1
                else:
                    dropped_pairs["tied"] += 1
        if not kept:
            dropped[reason] += 1
            continue
        paired += 1
        for better, worse in kept:
            columns["prompt"].append(list(messages))
            columns["gap"].append(margins[better] - margins[worse])
            columns["reward_margin"].append(rewards[better] - rewards[worse])
            for side, place in (("chosen", better), ("rejected", worse)):
                columns[side].append([{"role": "assistant", "content": candidates[place - start].text}])
                columns[f"{side}_logps"].append(policy_logps[place])
                columns[f"ref_{side}_logps"].append(reference_logps[place])
    pairs = _as_dataset(columns)
    counts = {
        "prompts": len(prompts),
        "responses": len(rewards),
        "paired": paired,
        "pairs": len(pairs),
        "dropped": dropped,
        "dropped_pairs": dropped_pairs,
    }
    return Annotation(pairs, counts)


def _eligible(candidates: Sequence[Response], rewards: np.ndarray) -> tuple[list[int], str | None]:
    """Positions of the responses that can make a pair, and the reason if there are fewer than two."""
    places = [place for place, candidate in enumerate(candidates) if candidate.finish_reason == "stop"]
    if len(places) < 2:
        return places, "unfinished"
    texts = [candidate.text.strip() for candidate in candidates]
    places = [place for place in places if texts[place]]
    if len(places) < 2:
        return places, "empty"
    if len({texts[place] for place in places}) < 2:
        return places, "identical"
    places = [place for place in places if not np.isnan(rewards[place])]
    first: dict[str, int] = {}
    for place in places:
        first.setdefault(texts[place], place)
    places = list(first.values())
    return places, "unranked" if len(places) < 2 else None


def _as_dataset(columns: dict[str, list[Any]]) -> Dataset:
    """The pairs in blocks: an Arrow block holds two gigabytes of text at most."""
    count = len(columns["prompt"])
    blocks = [
        Dataset.from_dict({name: values[first : first + _BLOCK] for name, values in columns.items()}, features=FEATURES)
        for first in range(0, max(count, 1), _BLOCK)
    ]
    return blocks[0] if len(blocks) == 1 else concatenate_datasets(blocks)


def _check_arguments(
    prompts: Sequence[Messages],
    responses: Sequence[Sequence[Response]],
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
            check_choice(f"responses row {row}: finish_reason", candidate.finish_reason, FinishReason)
        row_of.extend((row, place) for place in range(len(candidates)))
    arrays = []
    for name, values in (("rewards", rewards), ("policy_logps", policy_logps), ("reference_logps", reference_logps)):
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (len(row_of),):
            raise InputError(f"{name} has the shape {values.shape}; allowed: one number per response, {len(row_of)}.")
        bad = np.flatnonzero(np.isinf(values) if name == "rewards" else ~np.isfinite(values))
        if len(bad):
            row, place = row_of[bad[0]]
            raise InputError(f"{name} row {row}, response {place}: {values[bad[0]]}; allowed: a finite number.")
        arrays.append(values)
    return arrays
