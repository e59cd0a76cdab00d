"""Which of a prompt's responses make a pair."""

from itertools import combinations

import numpy as np

from sgpo.errors import InputError

CHOICES = ("best_worst", "best_random", "all")


def check_choice(choice: str, min_margin: float, seed: int) -> None:
    """Raises InputError for an unknown choice, a margin that is negative or not finite, or a negative seed."""
    if choice not in CHOICES:
        raise InputError(f"choice is {choice!r}; allowed: {', '.join(map(repr, CHOICES))}.")
    if not (np.isfinite(min_margin) and min_margin >= 0):
        raise InputError(f"min_margin is {min_margin}; allowed: a number >= 0.")
    if seed < 0:
        raise InputError(f"seed is {seed}; allowed: a whole number >= 0.")


def choose_pairs(rewards: np.ndarray, choice: str, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Places of (better, worse) responses among those that can make a pair.

    Args:
        rewards: (n,) rewards of the responses, n >= 2; finite. The first of equal responses counts as the better one.
        choice: "best_worst"; "best_random", the best and one of those below it; "all", every pair.
        rng: draws the random one.

    Returns: pairs of places; responses of equal reward may be among them.
    """
    order = np.argsort(-rewards, kind="stable")
    if choice == "best_worst":
        # The first of the worst, as it is the first of the best.
        return [(int(order[0]), int(rewards.argmin()))]
    if choice == "best_random":
        # A draw among the ties would drop the prompt for nothing.
        below = order[rewards[order] < rewards[order[0]]]
        others = below if len(below) else order[1:]
        return [(int(order[0]), int(others[rng.integers(len(others))]))]
    return [(int(better), int(worse)) for better, worse in combinations(order, 2)]


def keep_distinct(
    pairs: list[tuple[int, int]], rewards: np.ndarray, min_margin: float
) -> tuple[list[tuple[int, int]], list[str]]:
    """The pairs whose rewards differ by more than `min_margin`; why each of the others is left, "tied" or "close"."""
    kept, reasons = [], []
    for better, worse in pairs:
        difference = rewards[better] - rewards[worse]
        if difference > min_margin:
            kept.append((better, worse))
        else:
            reasons.append("close" if difference > 0 else "tied")
    return kept, reasons
