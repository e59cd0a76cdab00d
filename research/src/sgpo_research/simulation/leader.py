"""One training of the leader on arrays: minibatches, Adam, and the loss of a method, for T trials at once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sgpo.robust.exact import worst_case
from sgpo.robust.link import make_link
from sgpo.robust.losses import marginal_split
from sgpo_research.methods import Method
from sgpo_research.simulation import losses
from sgpo_research.simulation.adam import Adam
from sgpo_research.simulation.policies import Pairs

CONFIDENCE_QUANTILE, CONFIDENCE_WARMUP, CONFIDENCE_PAIRS = 0.1, 0.2, 128


@dataclass(frozen=True)
class Training:
    """What all methods share.

    Attributes:
        batch_size: pairs per optimiser step.
        seed_epochs, epochs: passes over the seeds, and over the pairs of a round.
        responses, temperature: of self-annotation.
    """

    batch_size: int = 32
    seed_epochs: int = 3
    epochs: int = 1
    responses: int = 2
    temperature: float = 0.7


@dataclass(frozen=True)
class Trials:
    """T settings that are tried: (T,) learning rates, (T,) values of the method's own parameter (nan without one)."""

    learning_rates: np.ndarray
    own: np.ndarray

    def repeat(self, times: int) -> "Trials":
        """Each trial `times` times, side by side."""
        return Trials(np.repeat(self.learning_rates, times), np.repeat(self.own, times))


def train(
    theta: np.ndarray,
    pairs: Pairs,
    method: Method,
    trials: Trials,
    *,
    radii: np.ndarray,
    beta: float,
    batch_size: int,
    epochs: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Trains T policies, each on its own pairs.

    Args:
        theta: (T, d) policies to start from.
        pairs: of T trials, or of one for all.
        method: whose loss it is.
        trials: learning rates and own parameters.
        radii: (T,) of the follower, which answers once, before the first step; 0 is DPO.
        beta: scale of the implicit reward.
        batch_size: pairs per step; the last step of an epoch may have fewer.
        epochs: passes over the pairs.
        rng: source of the order of pairs, the same for all trials.

    Returns: (T, d).
    """
    differences, count = pairs.differences, pairs.kept.shape[1]
    # With the policy that the round starts from as reference the first gaps are 0, and not what rounding leaves of it.
    origin = theta if method.reference == "previous" else np.zeros_like(theta)
    loss = _Loss(method, trials, pairs, beta * _gaps(differences, theta - origin), radii, beta)
    steps = epochs * -(-count // batch_size)
    adam = Adam(theta, trials.learning_rates, steps)
    kept_all = np.broadcast_to(pairs.kept, (len(theta), count))
    done = 0
    for _ in range(epochs):
        order = rng.permutation(count)
        for start in range(0, count, batch_size):
            rows = order[start : start + batch_size]
            batch, kept = differences[:, rows], kept_all[:, rows]
            gaps = beta * _gaps(batch, adam.theta - origin)
            pull = loss.slope(gaps, kept, rows, done / steps)
            adam.step(beta * _pull_back(batch, pull))
            done += 1
    return adam.theta


def _gaps(differences: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """D . theta, (T, B) float64."""
    theta = theta.astype(differences.dtype)
    if len(differences) == 1:
        return (theta @ differences[0].T).astype(np.float64)
    return np.matmul(differences, theta[:, :, None])[:, :, 0].astype(np.float64)


def _pull_back(differences: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """sum_i pull_i D_i, (T, d) float64."""
    pull = pull.astype(differences.dtype)
    if len(differences) == 1:
        return (pull @ differences[0]).astype(np.float64)
    return np.matmul(pull[:, None, :], differences)[:, 0].astype(np.float64)


class _Loss:
    """The slope of a method's loss in the gaps of a batch."""

    def __init__(
        self, method: Method, trials: Trials, pairs: Pairs, gaps: np.ndarray, radii: np.ndarray, beta: float
    ) -> None:
        self._method, self._beta = method, beta
        self._own = torch.from_numpy(trials.own[:, None])
        self._human = pairs.human
        self._recent: list[np.ndarray] = []
        self._robust = torch.from_numpy(radii[:, None] > 0)
        self._answer = _answer(method, gaps, pairs, radii) if (radii > 0).any() else None

    def slope(self, gaps: np.ndarray, kept: np.ndarray, rows: np.ndarray, progress: float) -> np.ndarray:
        """(T, B) the derivative of the batch's loss with respect to each gap."""
        leaf = torch.from_numpy(gaps).requires_grad_()
        mask = torch.from_numpy(np.ascontiguousarray(kept))
        per_pair = self._per_pair(leaf, mask, rows, progress)
        if self._method.loss == "dr_dpo":
            total = (losses.dr_dpo_weights(per_pair, mask, self._own) * per_pair).sum()
        else:
            total = (per_pair * mask / mask.sum(1, keepdim=True).clamp(min=1)).sum()
        (slope,) = torch.autograd.grad(total, leaf)
        return slope.numpy()

    def _per_pair(self, gaps: Tensor, mask: Tensor, rows: np.ndarray, progress: float) -> Tensor:
        method, own = self._method, self._own
        match method.loss:
            case "cdpo":
                return losses.cdpo(gaps, own)
            case "rdpo":
                return losses.rdpo(gaps, own)
            case "ipo":
                return losses.ipo(gaps, self._beta, own)
            case "spa":
                return losses.spa(gaps, self._threshold(gaps.detach(), mask, progress), own)
        plain = losses.dpo(gaps)
        if self._answer is None:
            return plain
        robust = losses.robust(gaps, self._answer, rows, method.step)
        mine = torch.from_numpy(~self._human[rows])[None, :] if method.seeds_in_rounds else True
        return torch.where(self._robust & mine, robust, plain)

    def _threshold(self, gaps: Tensor, mask: Tensor, progress: float) -> Tensor:
        """(T, 1) the quantile of the latest margins, whole steps of them; none in the warm-up and the first step."""
        count = sum(step.shape[1] for step in self._recent)
        while len(self._recent) > 1 and count > CONFIDENCE_PAIRS:
            count -= self._recent.pop(0).shape[1]
        threshold = torch.full((len(gaps), 1), -torch.inf, dtype=gaps.dtype)
        if self._recent and progress >= CONFIDENCE_WARMUP:
            latest = np.concatenate(self._recent, axis=1)
            # A batch in which a trial kept no pair leaves only nan.
            latest[np.isnan(latest).all(1)] = -np.inf
            quantile = np.nanquantile(latest, CONFIDENCE_QUANTILE, axis=1, keepdims=True, method="inverted_cdf")
            threshold = torch.from_numpy(quantile)
        self._recent.append(np.where(mask.numpy() > 0, gaps.numpy(), np.nan))
        return threshold


def _answer(method: Method, gaps: np.ndarray, pairs: Pairs, radii: np.ndarray) -> losses.Answer:
    """Solves the follower of each trial on its kept pairs; human ones stay out where they have DPO's loss."""
    trials, count = gaps.shape
    price, marginal, split = np.zeros((trials, 1)), np.full((trials, 1), np.nan), np.full((trials, 1), np.nan)
    moved, anchor = np.zeros((trials, count)), np.zeros((trials, count))
    kept = np.broadcast_to(pairs.kept, gaps.shape) > 0
    if method.seeds_in_rounds:
        kept = kept & ~pairs.human
    for trial in np.flatnonzero((radii > 0) & kept.any(1)):
        mine = kept[trial]
        worst = worst_case(
            gaps[trial, mine], float(radii[trial]), space=method.space, window=method.window, tangents=method.tangents,
            clip=True,
        )  # fmt: skip
        price[trial] = worst.price
        if worst.price > 0:
            marginal[trial], split[trial] = worst.marginal, marginal_split(worst)
        moved[trial, mine], anchor[trial, mine] = worst.moved, worst.points
    link = make_link(method.space, method.tangents, window=method.window)
    return losses.Answer(
        *(torch.from_numpy(array) for array in (price, marginal, split, moved, anchor)), method.window[0], link
    )
