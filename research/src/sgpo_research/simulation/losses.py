"""Leader losses on arrays of gaps, (T, B) for T trials at once; the robust ones are those of `sgpo.robust`."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sgpo.robust.link import Link
from sgpo.robust.losses import envelope_loss, mixture_loss, transport_loss


class Answer(NamedTuple):
    """The follower's answers to T trials, as the leader needs them.

    Attributes:
        price: (T, 1) price of radius.
        marginal, split: (T, 1) marginal gap, as a point of the gap space, and the share of it that moves; nan where
            nothing is marginal.
        moved, anchor: (T, N) moved shares and points at the answer.
        lower: a, the window's lower end.
        link: the link.
    """

    price: Tensor
    marginal: Tensor
    split: Tensor
    moved: Tensor
    anchor: Tensor
    lower: float
    link: Link


def dpo(gaps: Tensor) -> Tensor:
    r"""-log sigma(xi)."""
    return -logsigmoid(gaps)


def cdpo(gaps: Tensor, rate: Tensor) -> Tensor:
    r"""(1 - eta) l(xi) + eta l(-xi), labels wrong with probability eta."""
    return -(1 - rate) * logsigmoid(gaps) - rate * logsigmoid(-gaps)


def rdpo(gaps: Tensor, rate: Tensor) -> Tensor:
    r"""[(1 - eta) l(xi) - eta l(-xi)] / (1 - 2 eta): unbiased under flips of rate eta < 1/2."""
    return (-(1 - rate) * logsigmoid(gaps) + rate * logsigmoid(-gaps)) / (1 - 2 * rate)


def ipo(gaps: Tensor, beta: float, tau: Tensor) -> Tensor:
    r"""(xi / beta - 1 / (2 tau))^2, on log-ratios xi / beta."""
    return (gaps / beta - 1 / (2 * tau)) ** 2


def dr_dpo_weights(losses: Tensor, kept: Tensor, temperature: Tensor) -> Tensor:
    r"""Weights of  -beta' log mean exp(-l / beta')  over the kept pairs of a batch, (T, B), each row summing to 1."""
    scaled = torch.where(kept > 0, -losses.detach() / temperature, -torch.inf)
    return torch.nan_to_num(scaled.softmax(-1))


def spa(gaps: Tensor, threshold: Tensor, rate: Tensor) -> Tensor:
    """SPA: cDPO's loss where the margin is not above the threshold (T, 1), DPO's elsewhere."""
    doubted = (gaps.detach() <= threshold).to(gaps.dtype)
    return cdpo(gaps, rate * doubted)


def robust(gaps: Tensor, answer: Answer, rows: np.ndarray, step: str) -> Tensor:
    """The leader's loss at the follower's answer; `rows` index the batch's pairs among those that it answered to."""
    if step == "envelope":
        return envelope_loss(
            gaps,
            price=answer.price,
            lower=answer.lower,
            link=answer.link,
            marginal=answer.marginal,
            split=answer.split,
        ).loss
    frozen = {
        "moved": answer.moved[:, rows], "anchor": answer.anchor[:, rows], "lower": answer.lower, "link": answer.link,
    }  # fmt: skip
    if step == "transport":
        return transport_loss(gaps, **frozen)
    return mixture_loss(gaps, **frozen)
