"""Where the support of the worst case comes from each time the follower answers."""

import numpy as np

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.robust.link import sigmoid

QUANTILES = (0.01, 0.99)


def choose_window(args: SGPOConfig, gaps: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """The window [a, b] of the gap space by the rule in force.

    Args:
        args: the leader's arguments.
        gaps: (N,) in nats; also in probability space.
        weights: (N,) sample weights above 0, or None.

    Raises:
        InputError: the rule finds a = b, because the gaps are (nearly) all the same and nothing widens the window.
    """
    if args.window_rule == "explicit":
        return args.window[0], args.window[1]
    points = sigmoid(gaps) if args.space == "probability" else gaps
    if args.window_rule == "min_max":
        low, high = points.min(), points.max()
    else:
        levels = args.window_quantiles or QUANTILES
        low, high = np.quantile(points, levels, method="inverted_cdf", weights=weights)
    low, high = float(low) - args.window_margin, float(high) + args.window_margin
    if args.space == "probability":
        low, high = max(low, 0.0), min(high, 1.0)
    if not low < high:
        raise InputError(
            f"window_rule {args.window_rule!r} finds [{low}, {high}] for {len(gaps)} gaps; allowed: gaps that differ, "
            "or a window_margin above 0. Before the first step every gap is 0 where the reference is the policy "
            "itself."
        )
    return low, high
