"""Length in the ranking of responses; the follower's gaps do not change."""

import numpy as np

from sgpo.errors import InputError


def adjust_for_length(
    rewards: np.ndarray, n_tokens: np.ndarray, *, per_token: bool = False, penalty: float = 0.0
) -> np.ndarray:
    """(R,) rewards divided by the tokens of each response, or less `penalty` for each of them; nan stays nan.

    Raises InputError if both are asked for, the penalty is no number >= 0, or `n_tokens` is not (R,) or has a 0.
    Source: per token as in SimPO, arXiv:2405.14734, Section 2; the penalty as in R-DPO, arXiv:2403.19159, Section 3.
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
