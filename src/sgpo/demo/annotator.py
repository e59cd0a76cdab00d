"""A simulated annotator."""

import numpy as np
from numpy.typing import ArrayLike

from sgpo.errors import InputError


def prefers_first(first: ArrayLike, second: ArrayLike, *, flip_rate: float, rng: np.random.Generator) -> np.ndarray:
    r"""Labels pairs as a Bradley-Terry annotator with flipped labels.

    Args:
        first: (N,) gold rewards of the first responses, in nats.
        second: (N,) gold rewards of the second responses.
        flip_rate: probability that a label is flipped, in [0, 1].
        rng: source of the draws.

    Returns: (N,) bool, True where the first is preferred: with probability
        `(1 - flip_rate) * sigma(first - second) + flip_rate * sigma(second - first)`.

    Raises:
        InputError: `flip_rate` is out of range.
    """
    if not 0 <= flip_rate <= 1:
        raise InputError(f"flip_rate is {flip_rate}; allowed: a number in [0, 1].")
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    preferred = rng.random(difference.shape) < 1 / (1 + np.exp(-difference))
    return preferred ^ (rng.random(difference.shape) < flip_rate)
