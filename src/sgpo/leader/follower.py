"""The follower during a training: one worst case per source, answered again on schedule."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sgpo.errors import InputError
from sgpo.leader.pair_loss import Pairs
from sgpo.leader.pairs import PairTags
from sgpo.leader.recent import RecentGaps
from sgpo.leader.window import choose_window
from sgpo.robust.ball import Ball
from sgpo.robust.losses import EnvelopeLoss, envelope_loss, marginal_split, mixture_loss, transport_loss
from sgpo.robust.paper import solve_worst_case
from sgpo.robust.solution import WorstCase

ALL = "all"
RECENT_PAIRS = 1024


class MovedLoss(NamedTuple):
    """(B,) each: loss in nats, differentiable; moved share of the pair; 1 where its gap is outside the window."""

    loss: Tensor
    moved: Tensor
    outside: Tensor


@dataclass
class _Source:
    """Pairs that share a Wasserstein ball, and the latest answer to them.

    Attributes:
        everyone: places of its pairs in the training set.
        members: places of its pairs of weight above 0, the only ones that are answered to.
        recent: with schedule "step", the gaps to answer to.
        worst: the answer; None without a radius or pairs.
        places: of the pairs that were answered to, in the order of the answer.
        split: share of the marginal gap that is moved; None for groups, which have a marginal gap each.
    """

    name: str
    radius: float
    everyone: np.ndarray
    members: np.ndarray
    recent: RecentGaps | None = None
    worst: WorstCase | None = None
    places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    split: float | None = None

    def envelope(self, margins: Tensor) -> EnvelopeLoss:
        """Loss and moved share of each pair at the price of the answer."""
        worst, split = self.worst, self.split
        found = envelope_loss(
            margins, price=worst.price, lower=worst.window[0], link=worst.link, marginal=worst.marginal, split=split
        )
        return found._replace(loss=found.loss + worst.price * self.radius)


class Follower:
    """The worst case of each source, and the loss of a pair under it.

    Attributes:
        gaps: (N,) the gaps that the schedules `round` and `epoch` answer to, in nats; those before training for `step`.
        answers: how often it has answered.
    """

    def __init__(self, args: Any, pairs: Pairs, gaps: np.ndarray) -> None:
        """Takes the trainer's SGPOConfig, the training set, and (N,) its gaps before the first step, in nats."""
        self._args, self._pairs = args, pairs
        self.gaps = np.array(gaps, dtype=np.float64)
        self.answers = 0
        self._seen = np.full(len(gaps), np.nan)
        self._epoch = 0
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._sources = []
        for index, (name, radius) in enumerate(radii(args).items()):
            everyone = members = (
                np.arange(len(gaps)) if pairs.sources is None else np.flatnonzero(pairs.sources == index)
            )
            if pairs.weights is not None:
                members = everyone[pairs.weights[everyone] > 0]
            self._sources.append(_Source(name, radius, everyone, members, self._make_recent(members, radius)))

    def _make_recent(self, members: np.ndarray, radius: float) -> RecentGaps | None:
        if self._args.schedule != "step" or radius == 0:
            return None
        return RecentGaps(self.gaps[members], self._pairs.rows[members], self._args.recent_pairs or RECENT_PAIRS)

    @property
    def worst_cases(self) -> dict[str, WorstCase]:
        """The latest answer by source, or under the name "all"; a source without a radius or pairs has none."""
        return {source.name: source.worst for source in self._sources if source.worst is not None}

    def moved_shares(self) -> np.ndarray:
        """(N,) share of each pair of the training set that the latest answer moves.

        With schedule "step" the answer is to a running window, where a pair has the share of its latest gap. Pairs
        outside the window move as the price says, at their gap before training.
        """
        shares = np.zeros(len(self.gaps))
        for source in self._sources:
            if source.worst is not None:
                shares[source.members] = source.envelope(torch.from_numpy(self.gaps[source.members])).moved.numpy()
                shares[source.places] = source.worst.moved
        return shares

    # -- the loss ----------------------------------------------------------------------------------------------

    def loss(self, margins: Tensor, tags: PairTags, *, training: bool) -> MovedLoss:
        """The leader's loss of each pair, before weights.

        Args:
            margins: (B,) gaps under the current policy, in nats, with their graph.
            tags: rows and sources of the pairs.
            training: whether they are pairs of the training set; other pairs have no displacement of their own, and
                take the one that the marginal gap implies.
        """
        if len(self._sources) == 1:
            return self._source_loss(self._sources[0], margins, tags.row, training)
        parts = MovedLoss(*(torch.zeros_like(margins) for _ in range(3)))
        for index, source in enumerate(self._sources):
            mask = tags.source == index
            row = None if tags.row is None else tags.row[mask]
            for whole, part in zip(parts, self._source_loss(source, margins[mask], row, training), strict=True):
                whole[mask] = part.to(whole.dtype)
        return parts

    def _source_loss(self, source: _Source, margins: Tensor, row: Tensor | None, training: bool) -> MovedLoss:
        worst = source.worst
        if worst is None:
            return MovedLoss(-logsigmoid(margins), torch.zeros_like(margins), torch.zeros_like(margins))
        low, high = worst.window
        points = worst.link.to_space(margins.detach())
        outside = ((points < low) | (points > high)).to(margins.dtype)
        if self._args.step == "envelope":
            envelope = source.envelope(margins)
            return MovedLoss(envelope.loss, envelope.moved, outside)
        if training and self._args.schedule != "step":
            moved, anchor = (table[row] for table in self._displacements(margins.device))
        else:
            moved, anchor = source.envelope(margins.detach()).moved, points.clamp(low, high)
        frozen = {"moved": moved, "anchor": anchor, "lower": low, "link": worst.link}
        if self._args.step == "transport":
            return MovedLoss(transport_loss(margins, **frozen), moved, outside)
        return MovedLoss(mixture_loss(margins, **frozen, proximal=self._args.proximal), moved, outside)

    def _displacements(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Moved share and anchor of every row of the dataset."""
        if device not in self._tables:
            moved, anchor = np.zeros(self._pairs.rows[-1] + 1), np.zeros(self._pairs.rows[-1] + 1)
            for source in self._sources:
                if source.worst is not None:
                    # The exact link may be infinite at 0, which even a weight of 0 does not cancel.
                    anchor[self._pairs.rows[source.everyone]] = source.worst.window[0]
                    rows = self._pairs.rows[source.places]
                    moved[rows], anchor[rows] = source.worst.moved, source.worst.points
            self._tables[device] = tuple(
                torch.as_tensor(table, dtype=torch.float32, device=device) for table in (moved, anchor)
            )
        return self._tables[device]

    # -- the schedule ------------------------------------------------------------------------------------------

    def see_step(self, gaps: np.ndarray, rows: np.ndarray) -> None:
        """Schedule `step`: takes the gaps of one optimiser step, of all processes and microbatches, and answers."""
        places = np.searchsorted(self._pairs.rows, rows)
        for source in self._sources:
            if source.recent is not None:
                mine = np.isin(places, source.members)
                source.recent.push(gaps[mine], rows[mine])
        self.answer()

    def see_epoch(self, gaps: np.ndarray, rows: np.ndarray) -> None:
        """Schedule `epoch`: remembers gaps that training saw; the first of a row in an epoch counts."""
        places = np.searchsorted(self._pairs.rows, rows)
        # Processes that run out of pairs get the first ones of the epoch again; those were seen already.
        new = np.isnan(self._seen[places])
        self._seen[places[new]] = gaps[new]

    def begin_epoch(self, epoch: int) -> None:
        """Schedule `epoch`: answers once per epoch to what the last one saw; unseen pairs keep their gap."""
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
        for index, source in enumerate(self._sources):
            if source.recent is not None:
                state |= {f"recent.{index}.{key}": value for key, value in source.recent.state().items()}
        return state

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `state` returned, and answers.

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
        for index, source in enumerate(self._sources):
            if source.recent is not None:
                source.recent = self._make_recent(source.members, source.radius)
                prefix = f"recent.{index}."
                kept = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
                source.recent.load(kept)
        self.answers = answers - 1
        self.answer()

    # -- answering ---------------------------------------------------------------------------------------------

    def answer(self, given: Mapping[str, WorstCase] | None = None) -> None:
        """Solves the worst case of every source, or takes given ones.

        Args:
            given: the answer to the very same gaps, by source (or under "all").

        Raises:
            InputError: the first time, gaps outside an explicit window; a window rule that finds no window; given
                worst cases of other sources, or of another number of pairs.
        """
        gaps = {}
        for source in self._sources:
            if source.recent is None:
                source.places = source.members
                gaps[source.name] = self.gaps[source.members]
            else:
                gaps[source.name], rows = source.recent.read()
                source.places = np.searchsorted(self._pairs.rows, rows)
        answering = [source for source in self._sources if source.radius > 0 and len(source.places)]
        if given is not None:
            check_given(given, {source.name: len(source.places) for source in answering})
        for source in answering:
            worst = given[source.name] if given is not None else self._solve(source, gaps[source.name])
            source.worst, source.split = worst, None if self._args.group_size else marginal_split(worst)
        self.answers += 1
        self._tables.clear()

    def _solve(self, source: _Source, gaps: np.ndarray) -> WorstCase:
        args = self._args
        weights = None if self._pairs.weights is None else self._pairs.weights[source.places]
        # Training may carry gaps out of a window that held them at the start. They are then taken at its nearest end;
        # the leader's loss continues beyond it.
        clip = self.answers > 0 or args.window_rule == "quantiles"
        window, tangents = choose_window(args, gaps, weights), args.tangents or None
        ball = Ball(source.radius, space=args.space, window=window, tangents=tangents, clip=clip)
        seed = args.seed + self.answers
        try:
            return solve_worst_case(
                gaps, ball, weights=weights, solver=args.solver, group_size=args.group_size, seed=seed
            )
        except RuntimeError as error:
            raise InputError(f"solver {args.solver!r} gave up ({error}); allowed: solver 'exact'.") from error


def check_given(given: Mapping[str, WorstCase], counts: Mapping[str, int]) -> None:
    """Raises InputError unless worst cases are of these sources, each of this number of pairs."""
    if set(given) != set(counts):
        raise InputError(
            f"worst_cases is of {sorted(given)}; allowed: one of each source with a radius and pairs, {sorted(counts)}."
        )
    for name, count in counts.items():
        if len(given[name].moved) != count:
            raise InputError(
                f"worst_cases[{name!r}] is of {len(given[name].moved)} pairs; allowed: {count}, the pairs of "
                "train_dataset that it answers to."
            )


def radii(args: Any) -> dict[str, float]:
    """The radius of each source, in order of their indices; without a mapping one radius for all pairs."""
    return {ALL: args.radius} if args.source_radius is None else args.source_radius
