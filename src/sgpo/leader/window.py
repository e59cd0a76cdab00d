"""Where the support of the worst case comes from each time the follower answers."""

from typing import Any

import numpy as np

from sgpo.errors import InputError
from sgpo.robust.ball import Ball
from sgpo.robust.link import sigmoid

QUANTILES = (0.01, 0.99)


def choose_window(args: Any, gaps: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """The window [a, b] of the gap space by the rule in force.

    Args:
        args: the trainer's SGPOConfig.
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


def check_window(args: Any, *, is_robust: bool) -> None:
    """Checks the window and the arguments of its rule; fills in [0, 1] for a follower in probability space.

    Raises:
        InputError: an argument that the rule in force would ignore, or a window that is not one.
    """
    rule, levels = args.window_rule, args.window_quantiles
    if rule == "explicit" and args.window_margin:
        raise InputError(
            f"window_margin is {args.window_margin} with window_rule='explicit'; allowed: 0, or the rule 'min_max' or "
            "'quantiles'."
        )
    if rule != "explicit" and args.window is not None:
        raise InputError(
            f"window is {args.window} with window_rule={rule!r}; allowed: None, or window_rule 'explicit'."
        )
    if levels is not None and rule != "quantiles":
        raise InputError(
            f"window_quantiles is {levels} with window_rule={rule!r}; allowed: None, or the rule 'quantiles'."
        )
    if levels is not None and (len(levels) != 2 or not 0 <= levels[0] < levels[1] <= 1):
        raise InputError(f"window_quantiles is {levels}; allowed: two levels [low, high] with 0 <= low < high <= 1.")
    if is_robust and rule == "explicit":
        ball = Ball(0.0, space=args.space, window=args.window, tangents=args.tangents or None)
        try:
            args.window = list(ball.resolve()[1])
        except InputError as error:
            raise InputError(f"{error} Or window_rule 'min_max' or 'quantiles', which find it from the gaps.") from None
