"""A simulated annotator."""

import numpy as np
from numpy.typing import ArrayLike


def prefers_first(first: ArrayLike, second: ArrayLike, *, flip_rate: float, rng: np.random.Generator) -> np.ndarray:
    """Labels of a Bradley-Terry annotator, (N,) bool, from gold rewards (N,) in nats: the first is preferred with
    probability `(1 - flip_rate) sigma(first - second) + flip_rate sigma(second - first)`."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    preferred = rng.random(difference.shape) < 1 / (1 + np.exp(-difference))
    return preferred ^ (rng.random(difference.shape) < flip_rate)
