"""The follower during a training: one worst case per source, answered again on schedule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sgpo.errors import InputError
from sgpo.leader.pairs import Pairs, PairTags
from sgpo.leader.recent import RecentGaps
from sgpo.robust.ball import Ball
from sgpo.robust.link import sigmoid
from sgpo.robust.losses import EnvelopeLoss, envelope_loss, marginal_split, mixture_loss, transport_loss
from sgpo.robust.paper import solve_worst_case
from sgpo.robust.solution import WorstCase

ALL = "all"
RECENT_PAIRS = 1024
QUANTILES = (0.01, 0.99)


class MovedLoss(NamedTuple):
    """(B,) each: loss in nats, differentiable; moved share of the pair; 1 where its gap is outside the window."""

    loss: Tensor
    moved: Tensor
    outside: Tensor


@dataclass
class _Source:
    """Pairs of weight above 0 that share a ball (`members`, places in the training set), and the latest answer to those
    at `places`, in its order: None without a radius or pairs. `split` is the marginal gap's moved share; None for
    groups."""

    name: str
    radius: float
    members: np.ndarray
    recent: RecentGaps | None
    worst: WorstCase | None = None
    places: np.ndarray | None = None
    split: float | None = None

    def envelope(self, margins: Tensor) -> EnvelopeLoss:
        """Loss and moved share of each pair at the price of the answer."""
        worst, split = self.worst, self.split
        found = envelope_loss(
            margins, price=worst.price, lower=worst.window[0], link=worst.link, marginal=worst.marginal, split=split
        )
        return found._replace(loss=found.loss + worst.price * self.radius)


class Follower:
    """The worst case of each source, and the loss of a pair under it. `answers` counts how often it has answered;
    `gaps` are the (N,) gaps in nats that schedules `round` and `epoch` answer to, and those before training for
    `step`."""

    def __init__(self, args: Any, pairs: Pairs, gaps: np.ndarray) -> None:
        """Takes the trainer's SGPOConfig, the training set, and (N,) its gaps before the first step, in nats."""
        self._args, self._pairs = args, pairs
        self.gaps = np.array(gaps, dtype=np.float64)
        self.answers = 0
        self._seen = np.full(len(gaps), np.nan)
        self._epoch = 0
        self._tables: dict[torch.device, Tensor] = {}
        self._sources = []
        for index, (name, radius) in enumerate(radii(args).items()):
            mine = np.full(len(gaps), True) if pairs.sources is None else pairs.sources == index
            members, recent = np.flatnonzero(mine if pairs.weights is None else mine & (pairs.weights > 0)), None
            if args.schedule == "step" and radius > 0:
                recent = RecentGaps(self.gaps[members], pairs.rows[members], args.recent_pairs or RECENT_PAIRS)
            self._sources.append(_Source(name, radius, members, recent))

    @property
    def worst_cases(self) -> dict[str, WorstCase]:
        """The latest answer by source, or under the name "all"; a source without a radius or pairs has none."""
        return {source.name: source.worst for source in self._sources if source.worst is not None}

    def moved_shares(self) -> np.ndarray:
        """(N,) share of each pair of the training set that the latest answer moves. With schedule "step", pairs outside
        the running window move as the price says, at their gap before training."""
        shares = np.zeros(len(self.gaps))
        for source in self._sources:
            if source.worst is not None:
                shares[source.members] = source.envelope(torch.from_numpy(self.gaps[source.members])).moved.numpy()
                shares[source.places] = source.worst.moved
        return shares

    def loss(self, margins: Tensor, tags: PairTags, *, training: bool) -> MovedLoss:
        """The leader's loss of each pair, before weights, from (B,) gaps in nats with their graph. Pairs outside the
        training set take the displacement that the marginal gap implies."""
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
            return MovedLoss(*source.envelope(margins), outside)
        if training and self._args.schedule != "step":
            moved, anchor = self._displacements(margins.device)[:, row]
        else:
            moved, anchor = source.envelope(margins.detach()).moved, points
        # A pair of weight 0 has no anchor; the exact link may be infinite at 0, which even that weight does not cancel.
        frozen = {"moved": moved, "anchor": anchor.clamp(low, high), "lower": low, "link": worst.link}
        if self._args.step == "transport":
            return MovedLoss(transport_loss(margins, **frozen), moved, outside)
        return MovedLoss(mixture_loss(margins, **frozen, proximal=self._args.proximal), moved, outside)

    def _displacements(self, device: torch.device) -> Tensor:
        """(2, rows) moved share and anchor of every row of the dataset."""
        if device not in self._tables:
            table = np.zeros((2, self._pairs.rows[-1] + 1))
            for source in self._sources:
                if source.worst is not None:
                    table[:, self._pairs.rows[source.places]] = source.worst.moved, source.worst.points
            self._tables[device] = torch.as_tensor(table, dtype=torch.float32, device=device)
        return self._tables[device]

    def see(self, rows: np.ndarray, gaps: np.ndarray) -> None:
        """Takes gaps, by ascending row, that training saw on all processes; schedule `step` answers to them at once."""
        places = np.searchsorted(self._pairs.rows, rows)
        if self._args.schedule == "epoch":
            # Processes that run out of pairs get the first ones of the epoch again; those were seen already.
            new = np.isnan(self._seen[places])
            self._seen[places[new]] = gaps[new]
            return
        for source in self._sources:
            if source.recent is not None:
                mine = np.isin(places, source.members)
                source.recent.push(gaps[mine], rows[mine])
        self.answer()

    def begin_epoch(self, epoch: int) -> None:
        """Schedule `epoch`: answers once per epoch to what the last one saw; unseen pairs keep their gap."""
        # A run that is resumed within an epoch begins it a second time.
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self.gaps = np.where(np.isnan(self._seen), self.gaps, self._seen)
        self._seen[:] = np.nan
        self.answer()

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next answers depend on, as arrays."""
        state = {"rows": self._pairs.rows, "gaps": self.gaps, "seen": self._seen}
        state["counts"] = np.array([self._epoch, self.answers], dtype=np.int64)
        for index, source in enumerate(self._sources):
            if source.recent is not None:
                state |= {f"recent.{index}.{key}": value for key, value in source.recent.state().items()}
        return state

    @classmethod
    def restored(cls, args: Any, pairs: Pairs, state: dict[str, np.ndarray]) -> "Follower":
        """A follower of that `state`, which has answered; raises InputError for the state of another dataset."""
        if not np.array_equal(state["rows"], pairs.rows):
            raise InputError(
                f"the checkpoint's follower has {len(state['rows'])} pairs and train_dataset has {len(pairs.rows)} "
                "(or other rows were dropped); allowed: the dataset it was trained on."
            )
        follower = cls(args, pairs, state["gaps"])
        follower._seen = state["seen"].copy()
        follower._epoch, answers = (int(count) for count in state["counts"])
        for index, source in enumerate(follower._sources):
            if source.recent is not None:
                source.recent.load({key: state[f"recent.{index}.{key}"] for key in ("gaps", "rows", "lengths")})
        follower.answers = answers - 1
        follower.answer()
        return follower

    def answer(self, given: Mapping[str, WorstCase] | None = None) -> None:
        """Solves the worst case of every source, or takes given answers to the very same gaps, by source. InputError
        the first time, for gaps outside an explicit window; and for a rule that finds no window."""
        asked = {}
        for source in self._sources:
            source.places, gaps = source.members, self.gaps[source.members]
            if source.recent is not None:
                gaps, rows = source.recent.read()
                source.places = np.searchsorted(self._pairs.rows, rows)
            if source.radius > 0 and len(gaps):
                asked[source.name] = gaps
        if given is not None:
            found = {name: len(worst.moved) for name, worst in given.items()}
            wanted = {name: len(gaps) for name, gaps in asked.items()}
            if found != wanted:
                raise InputError(
                    f"worst_cases is of {found} pairs; allowed: {wanted}, those of train_dataset by source."
                )
        for source in self._sources:
            if source.name in asked:
                source.worst = self._solve(source, asked[source.name]) if given is None else given[source.name]
                source.split = None if self._args.group_size else marginal_split(source.worst)
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
        how = {"solver": args.solver, "group_size": args.group_size, "seed": args.seed + self.answers}
        try:
            return solve_worst_case(gaps, ball, weights=weights, **how)
        except RuntimeError as error:
            raise InputError(f"solver {args.solver!r} did not converge ({error}); allowed: solver 'exact'.") from error


def choose_window(args: Any, gaps: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """The window [a, b] of the gap space by the rule in force, from (N,) gaps in nats and weights above 0."""
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


def radii(args: Any) -> dict[str, float]:
    """The radius of each source, in order of their indices; without a mapping one radius for all pairs."""
    return {ALL: args.radius} if args.source_radius is None else args.source_radius
