"""Which responses of a prompt make a pair."""

from itertools import combinations

import numpy as np


def choose_pairs(rewards: np.ndarray, choice: str, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Positions of (better, worse) responses.

    Args:
        rewards: (n,) rewards of the responses, n >= 2; finite. Of equal rewards the first counts as the better one.
        choice: "best_worst"; "best_random", the best and one of those below it; "all", every pair.
        rng: draws the random one.

    Returns: pairs of positions; responses of equal reward may be among them.
    """
    order = np.argsort(-rewards, kind="stable")
    if choice == "best_worst":
        # The first of the worst, as it is the first of the best.
        return [(int(order[0]), int(rewards.argmin()))]
    if choice == "best_random":
        # Drawing one of the ties would drop a prompt that has a pair.
        below = order[rewards[order] < rewards[order[0]]]
        others = below if len(below) else order[1:]
        return [(int(order[0]), int(others[rng.integers(len(others))]))]
    return [(int(better), int(worse)) for better, worse in combinations(order, 2)]
