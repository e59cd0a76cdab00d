"""Sampling that does not depend on the batch: every response draws its own numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from sgpo.policy.sampling import Sampling


def draw_uniforms(seeds: Sequence[tuple[int, int]], length: int) -> np.ndarray:
    """(R, length) uniform numbers in [0, 1), one row for each (seed of the prompt, number of the response)."""
    return np.stack([np.random.default_rng(list(seed)).random(length) for seed in seeds])


class Pick(LogitsProcessor):
    """Picks the next token of each row by inverting the cumulative distribution at the row's own number.

    The pick is the argmax of what it returns, so `generate` runs with do_sample=False and draws nothing itself.
    `uniforms` are (R, T) numbers in [0, 1), for the row's t-th new token; `written` (R,) counts the tokens that each
    row has already generated; `prompt_length` is that of the padded input, which includes them.
    """

    def __init__(self, sampling: Sampling, uniforms: Tensor, written: Tensor, prompt_length: int) -> None:
        self._warp = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
        if sampling.top_p < 1:
            self._warp.append(TopPLogitsWarper(float(sampling.top_p)))
        self._uniforms, self._written, self._prompt_length = uniforms, written, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = self._written + (input_ids.shape[1] - self._prompt_length)
        drawn = self._uniforms.gather(1, place.clamp(max=self._uniforms.shape[1] - 1).unsqueeze(1))
        probabilities = torch.softmax(self._warp(input_ids, scores.float()), dim=-1)
        cumulative = probabilities.cumsum(dim=-1)
        # Rounding may leave the last sum below 1, so the sum itself is the scale. A number just below 1 may be 1 in
        # float32; kept below the sum, it finds a token of positive probability.
        whole = cumulative[:, -1:]
        target = torch.minimum(drawn.to(cumulative.dtype) * whole, torch.nextafter(whole, torch.zeros_like(whole)))
        picked = torch.searchsorted(cumulative, target, right=True).clamp(max=probabilities.shape[1] - 1)
        return scores.scatter(1, picked, torch.inf)
