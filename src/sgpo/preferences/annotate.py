"""Self-annotation: from scored responses to preference pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value, concatenate_datasets

from sgpo.choices import Failure, FinishReason, PairChoice, check_choice
from sgpo.errors import InputError, check_whole
from sgpo.policy.sampling import Response
from sgpo.policy.tokens import Messages
from sgpo.preferences.layout import PAIR_FEATURES

SCORES = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps", "gap", "reward_margin")
FEATURES = Features({**PAIR_FEATURES, **dict.fromkeys(SCORES, Value("float64"))})
REASONS = ("failed", "identical", "unfinished", "empty", "unranked", "tied", "close")
# An Arrow block holds two gigabytes of text at most.
_BLOCK = 4096


@dataclass(frozen=True)
class Annotation:
    """Self-annotated pairs.

    Attributes:
        pairs: `prompt`, `chosen`, `rejected`, the log-probabilities `chosen_logps`, `rejected_logps` (policy),
            `ref_chosen_logps`, `ref_rejected_logps` (reference), the `gap`, in nats, and `reward_margin`, the chosen
            response's reward minus the rejected one's.
        counts: `prompts`, `responses`, `paired` (prompts with a pair), `pairs`, `dropped` (prompts without a pair, by
            reason), and `dropped_pairs` (pairs that are tied or close, whether or not their prompt has another pair).
    """

    pairs: Dataset
    counts: dict[str, Any]


def implicit_rewards(policy_logps: np.ndarray, reference_logps: np.ndarray, beta: float) -> np.ndarray:
    r"""Implicit rewards `R(x, y) = beta * [log pi(y|x) - log pi_ref(y|x)]`, (R,) in nats.

    Source: arXiv:2502.18099, Section 3.1.
    """
    return beta * (np.asarray(policy_logps, dtype=np.float64) - np.asarray(reference_logps, dtype=np.float64))


def adjust_for_length(
    rewards: np.ndarray, n_tokens: np.ndarray, *, per_token: bool = False, penalty: float = 0.0
) -> np.ndarray:
    """(R,) rewards divided by the tokens of each response, or less `penalty` for each of them; nan stays nan.

    They rank the responses; the gaps do not change. Raises InputError if both are asked for, the penalty is no number
    >= 0, or `n_tokens` is not (R,) or has a 0. Source: per token as in SimPO, arXiv:2405.14734, Section 2; the penalty
    as in R-DPO, arXiv:2403.19159, Section 3.
    """
    if per_token and penalty:
        raise InputError(f"per_token with length penalty {penalty}; allowed: one of the two.")
    if not (np.isfinite(penalty) and penalty >= 0):
        raise InputError(f"length penalty is {penalty}; allowed: a number >= 0.")
    rewards, n_tokens = np.asarray(rewards, dtype=np.float64), np.asarray(n_tokens)
    if n_tokens.shape != rewards.shape:
        raise InputError(f"n_tokens has the shape {n_tokens.shape}; allowed: one number per reward, {rewards.shape}.")
    few = np.flatnonzero(n_tokens < 1)
    if len(few):
        raise InputError(f"n_tokens of response {few[0]} is {n_tokens[few[0]]}; allowed: a number >= 1.")
    return rewards / n_tokens if per_token else rewards - penalty * n_tokens


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

    Responses that failed (there is none), are unfinished (cut at the token limit), empty, duplicates or without a
    reward are excluded; of duplicates the first with a reward stays. A prompt left with fewer than two is dropped under
    the first of these reasons that left it so. Pairs of equal rewards are dropped as tied, and pairs whose rewards
    differ by no more than `min_margin` as close; a prompt left without a pair counts as close if one of its pairs was.

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
    check_whole("seed", seed, 0)
    if not (np.isfinite(min_margin) and min_margin >= 0):
        raise InputError(f"min_margin is {min_margin}; allowed: a number >= 0.")
    if not (np.isfinite(beta) and beta > 0):
        raise InputError(f"beta is {beta}; allowed: a number > 0.")
    _check_responses(prompts, responses)
    rewards = _check_scores("rewards", rewards, responses)
    policy_logps = _check_scores("policy_logps", policy_logps, responses)
    reference_logps = _check_scores("reference_logps", reference_logps, responses)
    margins = implicit_rewards(policy_logps, reference_logps, beta)
    dropped, dropped_pairs = dict.fromkeys(REASONS, 0), dict.fromkeys(("tied", "close"), 0)
    kept: list[tuple[int, int, int]] = []
    start = 0
    for row, candidates in enumerate(responses):
        places, reason = _eligible(candidates, rewards[start : start + len(candidates)])
        places, before = places + start, len(kept)
        start += len(candidates)
        chosen = [] if reason else _choose(rewards[places], choice, np.random.default_rng([seed, row]))
        for better, worse in (places[list(pair)] for pair in chosen):
            margin = rewards[better] - rewards[worse]
            if margin > min_margin:
                kept.append((row, better, worse))
            else:
                dropped_pairs["close" if margin > 0 else "tied"] += 1
                reason = "close" if margin > 0 else reason or "tied"
        if len(kept) == before:
            dropped[reason] += 1
    rows, better, worse = np.array(kept, dtype=np.int64).reshape(-1, 3).T
    turns = [[{"role": "assistant", "content": one.text}] for candidates in responses for one in candidates]
    columns = {"prompt": [list(prompts[row]) for row in rows], "gap": margins[better] - margins[worse]}
    columns["reward_margin"] = rewards[better] - rewards[worse]
    for side, places in (("chosen", better), ("rejected", worse)):
        columns |= {side: [turns[place] for place in places], f"{side}_logps": policy_logps[places]}
        columns[f"ref_{side}_logps"] = reference_logps[places]
    pairs = _as_dataset(columns)
    counts = {"prompts": len(prompts), "responses": len(rewards), "paired": len(set(rows)), "pairs": len(pairs)}
    return Annotation(pairs, {**counts, "dropped": dropped, "dropped_pairs": dropped_pairs})


def _eligible(candidates: Sequence[Response], rewards: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Positions of the responses that can make a pair, and the reason if there are fewer than two."""
    texts = [candidate.text.strip() for candidate in candidates]
    present = [candidate for candidate in candidates if candidate.finish_reason in FinishReason.__args__]
    finished = [place for place, candidate in enumerate(candidates) if candidate.finish_reason == "stop"]
    filled = [place for place in finished if texts[place]]
    ranked: dict[str, int] = {}
    for place in filled:
        if not np.isnan(rewards[place]):
            ranked.setdefault(texts[place], place)
    distinct = {texts[place] for place in filled}
    left = {"failed": present, "unfinished": finished, "empty": filled, "identical": distinct, "unranked": ranked}
    return np.array(list(ranked.values())), next((reason for reason, some in left.items() if len(some) < 2), None)


def _choose(rewards: np.ndarray, choice: str, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Positions of (better, worse) among (n,) rewards, n >= 2; of equal rewards the first counts as the better one."""
    order = np.argsort(-rewards, kind="stable")
    if choice == "all":
        return list(combinations(order, 2))
    if choice == "best_worst":
        # The first of the worst, as it is the first of the best.
        return [(order[0], rewards.argmin())]
    # Drawing one of the ties would drop a prompt that has a pair.
    below = order[rewards[order] < rewards[order[0]]]
    others = below if len(below) else order[1:]
    return [(order[0], others[rng.integers(len(others))])]


def _as_dataset(columns: dict[str, Sequence[Any]]) -> Dataset:
    starts = range(0, max(len(columns["prompt"]), 1), _BLOCK)
    blocks = ({name: columns[name][start : start + _BLOCK] for name in FEATURES} for start in starts)
    return concatenate_datasets([Dataset.from_dict(block, features=FEATURES) for block in blocks])


def _check_responses(prompts: Sequence[Messages], responses: Sequence[Sequence[Response]]) -> None:
    if len(responses) != len(prompts):
        raise InputError(f"responses has {len(responses)} rows; allowed: one per prompt, {len(prompts)}.")
    for row, candidates in enumerate(responses):
        if len(candidates) < 2:
            raise InputError(f"responses row {row} has {len(candidates)} responses; allowed: at least two.")
        for candidate in candidates:
            if candidate.finish_reason not in Failure.__args__:
                check_choice(f"responses row {row}: finish_reason", candidate.finish_reason, FinishReason)


def _check_scores(name: str, values: np.ndarray, responses: Sequence[Sequence[Response]]) -> np.ndarray:
    """(R,) float64, one finite number for each response; a reward may be nan."""
    values = np.asarray(values, dtype=np.float64)
    places = [(row, place) for row, candidates in enumerate(responses) for place in range(len(candidates))]
    if values.shape != (len(places),):
        raise InputError(f"{name} has the shape {values.shape}; allowed: one number per response, {len(places)}.")
    bad = np.flatnonzero(np.isinf(values) if name == "rewards" else ~np.isfinite(values))
    if len(bad):
        row, place = places[bad[0]]
        raise InputError(f"{name} row {row}, response {place}: {values[bad[0]]}; allowed: a finite number.")
    return values
