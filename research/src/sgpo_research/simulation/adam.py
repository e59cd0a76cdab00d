"""Adam with a warm-up and a cosine, as the leader trains, on T parameter vectors at once."""

import math

import numpy as np


class Adam:
    """Adam on (T, d) parameters, with a learning rate per trial; biases corrected, no weight decay.

    The rate rises over the first `warmup` of the steps and falls to 0 along a cosine, as transformers has it.
    """

    def __init__(self, theta: np.ndarray, learning_rates: np.ndarray, steps: int, *, warmup: float = 0.1) -> None:
        """Takes (T, d) starting points, which stay as they are, (T,) peak rates, and how many steps there will be."""
        self.theta = np.array(theta, dtype=np.float64)
        self._rates, self._steps, self._warm = learning_rates[:, None], steps, math.ceil(warmup * steps)
        self._first, self._second, self._done = np.zeros_like(self.theta), np.zeros_like(self.theta), 0

    def step(self, gradient: np.ndarray) -> None:
        """Goes down a gradient (T, d)."""
        done = self._done
        if done < self._warm:
            share = done / self._warm
        else:
            share = 0.5 * (1 + math.cos(math.pi * (done - self._warm) / max(self._steps - self._warm, 1)))
        self._done = done + 1
        self._first += 0.1 * (gradient - self._first)
        self._second += 0.001 * (gradient**2 - self._second)
        first = self._first / (1 - 0.9**self._done)
        second = self._second / (1 - 0.999**self._done)
        self.theta -= share * self._rates * first / (np.sqrt(second) + 1e-8)
