"""The follower as the leader keeps it through a round: one worst case per source, answered again on schedule."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.leader.pairs import PairTags
from sgpo.leader.recent import RecentGaps
from sgpo.leader.window import choose_window
from sgpo.robust.ball import Ball
from sgpo.robust.losses import EnvelopeLoss, envelope_loss, marginal_split, mixture_loss, transport_loss
from sgpo.robust.paper import solve_worst_case
from sgpo.robust.solution import WorstCase

ALL = "all"
RECENT_PAIRS = 1024


class Pairs(NamedTuple):
    """The training set as the follower sees it: (N,) ascending rows, weights or None, indices of sources or None."""

    rows: np.ndarray
    weights: np.ndarray | None = None
    sources: np.ndarray | None = None


class RobustLoss(NamedTuple):
    """(B,) each: loss in nats, differentiable; share of the pair that is moved; 1 where its gap is off the window."""

    loss: Tensor
    moved: Tensor
    outside: Tensor


@dataclass
class _Ball:
    """The Wasserstein ball of one source: radius, members, and latest answer (None without radius or mass)."""

    name: str
    radius: float
    members: np.ndarray
    recent: RecentGaps | None = None
    worst: WorstCase | None = None
    split: float | None = None

    def take(self, worst: WorstCase, *, grouped: bool) -> None:
        """Keeps an answer, and which share of the marginal gap it moves; groups have one each, and it none."""
        self.worst, self.split = worst, None if grouped else marginal_split(worst)

    def envelope(self, margins: Tensor) -> EnvelopeLoss:
        """The dual at the ball's price, and the share of each gap that the price moves."""
        worst = self.worst
        priced = envelope_loss(
            margins,
            price=worst.price,
            lower=worst.window[0],
            link=worst.link,
            marginal=worst.marginal,
            split=self.split,
        )
        return EnvelopeLoss(priced.loss + worst.price * self.radius, priced.moved)


class Follower:
    """The worst case of each source, and the loss of a pair under it.

    Attributes:
        gaps: (N,) the gaps that the schedules `round` and `epoch` answer to, in nats; those before training for `step`.
        answers: how often it has answered.
    """

    def __init__(self, args: SGPOConfig, pairs: Pairs, gaps: np.ndarray) -> None:
        """Takes the leader's arguments, the training set, and (N,) its gaps before the first step, in nats."""
        self._args, self._pairs = args, pairs
        self.gaps = np.array(gaps, dtype=np.float64)
        self.answers = 0
        self._seen = np.full(len(gaps), np.nan)
        self._epoch = 0
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._balls = [self._make_ball(name, radius) for name, radius in radii(args).items()]

    @property
    def worst_cases(self) -> dict[str, WorstCase]:
        """The latest answer by source, or under the name "all"; a source without radius or pairs has none."""
        return {ball.name: ball.worst for ball in self._balls if ball.worst is not None}

    # -- the loss ----------------------------------------------------------------------------------------------

    def loss(self, margins: Tensor, tags: PairTags, *, training: bool) -> RobustLoss:
        """The leader's loss of each pair, before weights.

        Args:
            margins: (B,) gaps under the policy as it is, in nats, with their graph.
            tags: rows and sources of the pairs.
            training: whether they are pairs of the training set; others have no displacement of their own, and
                meet the one that the marginal gap implies.
        """
        if len(self._balls) == 1:
            return self._ball_loss(self._balls[0], margins, tags.row, training)
        parts = RobustLoss(*(torch.zeros_like(margins) for _ in range(3)))
        for index, ball in enumerate(self._balls):
            mask = tags.source == index
            row = None if tags.row is None else tags.row[mask]
            for whole, part in zip(parts, self._ball_loss(ball, margins[mask], row, training), strict=True):
                whole[mask] = part.to(whole.dtype)
        return parts

    def _ball_loss(self, ball: _Ball, margins: Tensor, row: Tensor | None, training: bool) -> RobustLoss:
        worst = ball.worst
        if worst is None:
            return RobustLoss(-logsigmoid(margins), torch.zeros_like(margins), torch.zeros_like(margins))
        low, high = worst.window
        points = worst.link.to_space(margins.detach())
        outside = ((points < low) | (points > high)).to(margins.dtype)
        if self._args.step == "envelope":
            return RobustLoss(*ball.envelope(margins), outside)
        if training and self._args.schedule != "step":
            moved, anchor = (table[row] for table in self._frozen(margins))
        else:
            moved, anchor = ball.envelope(margins.detach()).moved, points.clamp(low, high)
        frozen = {"moved": moved, "anchor": anchor, "lower": low, "link": worst.link}
        if self._args.step == "transport":
            return RobustLoss(transport_loss(margins, **frozen), moved, outside)
        return RobustLoss(mixture_loss(margins, **frozen, proximal=self._args.proximal), moved, outside)

    def _frozen(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Moved share and anchor of every row of the dataset, on the device of `like`."""
        if like.device not in self._tables:
            moved, anchor = np.zeros(self._pairs.rows[-1] + 1), np.zeros(self._pairs.rows[-1] + 1)
            for ball in self._balls:
                if ball.worst is None:
                    continue
                anchor[self._pairs.rows[ball.members]] = ball.worst.window[0]
                heavy = self._pairs.rows[self._with_mass(ball.members)]
                moved[heavy], anchor[heavy] = ball.worst.moved, ball.worst.points
            self._tables[like.device] = tuple(
                torch.as_tensor(table, dtype=torch.float32, device=like.device) for table in (moved, anchor)
            )
        return self._tables[like.device]

    # -- the schedule ------------------------------------------------------------------------------------------

    def see_step(self, gaps: np.ndarray, rows: np.ndarray) -> None:
        """Schedule `step`: takes the gaps of one optimiser step, from all ranks and microbatches, and answers."""
        places = np.searchsorted(self._pairs.rows, rows)
        for ball in self._balls:
            mine = np.isin(places, self._with_mass(ball.members))
            if ball.recent is not None:
                ball.recent.push(gaps[mine], rows[mine])
        self.answer()

    def see_epoch(self, gaps: np.ndarray, rows: np.ndarray) -> None:
        """Schedule `epoch`: remembers gaps that training saw; the first of a row in an epoch counts."""
        places = np.searchsorted(self._pairs.rows, rows)
        # Ranks that run out of pairs are given the epoch's first ones again; those were seen already.
        new = np.isnan(self._seen[places])
        self._seen[places[new]] = gaps[new]

    def begin_epoch(self, epoch: int) -> None:
        """Schedule `epoch`: answers to what the epoch before saw, once per epoch; unseen pairs keep their gap."""
        # A run that is resumed within an epoch begins it a second time.
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self.gaps = np.where(np.isnan(self._seen), self.gaps, self._seen)
        self._seen[:] = np.nan
        self.answer()

    # -- checkpoints -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next answers depend on, as arrays."""
        state = {"rows": self._pairs.rows, "gaps": self.gaps, "seen": self._seen}
        state["counts"] = np.array([self._epoch, self.answers], dtype=np.int64)
        for index, ball in enumerate(self._balls):
            if ball.recent is not None:
                state |= {f"recent.{index}.{key}": value for key, value in ball.recent.state().items()}
        return state

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Goes on where `state` was taken.

        Raises:
            InputError: the state is of another dataset.
        """
        if not np.array_equal(state["rows"], self._pairs.rows):
            raise InputError(
                f"the checkpoint's follower knows {len(state['rows'])} pairs and train_dataset has "
                f"{len(self._pairs.rows)} (or other rows were dropped); allowed: the dataset it was trained on."
            )
        self.gaps, self._seen = state["gaps"].copy(), state["seen"].copy()
        self._epoch, answers = (int(count) for count in state["counts"])
        for index, ball in enumerate(self._balls):
            if ball.recent is not None:
                ball.recent = self._make_recent(ball.members)
                prefix = f"recent.{index}."
                kept = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
                ball.recent.load(kept)
        self.answers = answers - 1
        self.answer()

    # -- answering ---------------------------------------------------------------------------------------------

    def _make_ball(self, name: str, radius: float) -> _Ball:
        count = len(self._pairs.rows)
        members = np.arange(count)
        if self._pairs.sources is not None:
            members = np.flatnonzero(self._pairs.sources == list(radii(self._args)).index(name))
        recent = self._make_recent(members) if self._args.schedule == "step" and radius > 0 else None
        return _Ball(name, radius, members, recent)

    def _make_recent(self, members: np.ndarray) -> RecentGaps:
        heavy = self._with_mass(members)
        return RecentGaps(self.gaps[heavy], self._pairs.rows[heavy], self._args.recent_pairs or RECENT_PAIRS)

    def _with_mass(self, members: np.ndarray) -> np.ndarray:
        """Members of weight above 0: the others are as good as absent, also from windows and from the buffer."""
        return members if self._pairs.weights is None else members[self._pairs.weights[members] > 0]

    def answer(self) -> None:
        """Solves every ball.

        Raises:
            InputError: the first time, gaps outside an explicit window; a window rule that finds no window.
        """
        for ball in self._balls:
            if ball.recent is None:
                places = self._with_mass(ball.members)
                gaps = self.gaps[places]
            else:
                gaps, rows = ball.recent.read()
                places = np.searchsorted(self._pairs.rows, rows)
            if ball.radius > 0 and len(gaps):
                ball.take(self._solve(ball, gaps, places), grouped=self._args.group_size is not None)
        self.answers += 1
        self._tables.clear()

    def _solve(self, ball: _Ball, gaps: np.ndarray, places: np.ndarray) -> WorstCase:
        args = self._args
        weights = None if self._pairs.weights is None else self._pairs.weights[places]
        # A policy in training carries gaps out of a window that held them at the start. They are then taken at its
        # nearest end; the leader's loss goes on beyond it.
        try:
            ball = Ball(
                ball.radius,
                space=args.space,
                window=choose_window(args, gaps, weights),
                tangents=args.tangents or None,
                clip=self.answers > 0 or args.window_rule == "quantiles",
            )
            return solve_worst_case(
                gaps,
                ball,
                solver=args.solver,
                group_size=args.group_size,
                seed=args.seed + self.answers,
                weights=weights,
            )
        except RuntimeError as error:
            raise InputError(f"solver {args.solver!r} gave up ({error}); allowed: solver 'exact'.") from error


def radii(args: SGPOConfig) -> dict[str, float]:
    """The radius of each source, in order of their indices; without a mapping one radius for all pairs."""
    return {ALL: args.radius} if args.source_radius is None else args.source_radius
