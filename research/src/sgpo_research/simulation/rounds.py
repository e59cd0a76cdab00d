"""The loop on arrays: DPO on the seeds, then rounds of self-annotation, follower and leader, for T trials at once."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sgpo.stats.acceptance import accept_round, choose_radius
from sgpo.stats.certificate import measured_radius
from sgpo_research.methods import Method
from sgpo_research.simulation.leader import Training, Trials, train
from sgpo_research.simulation.policies import Pairs, annotate, fit_reward_model, human_pairs, join
from sgpo_research.worlds.arrays import ArrayWorld


class Stage(NamedTuple):
    """Results of one stage of the loop, (T,) each; round 0 is DPO on the seeds.

    Attributes:
        theta: (T, d) the policies after it.
        radius: of the follower; nan in round 0.
        moved_share: nan without a follower.
        agreement: share of the stage's pairs whose order gold shares.
        kept: share of the stage's prompts that gave a pair.
        accepted: whether the training was taken.
    """

    theta: np.ndarray
    radius: np.ndarray
    agreement: np.ndarray
    kept: np.ndarray
    accepted: np.ndarray


@dataclass(frozen=True)
class Simulation:
    """A method in a world.

    Attributes:
        world: the world.
        method: the method.
        trials: what is tried, side by side; trials are independent.
        training: what all methods share.
        seed: of sampling responses and of the order of pairs; methods with the same seed share the draws.
    """

    world: ArrayWorld
    method: Method
    trials: Trials
    training: Training
    seed: int

    def run(self) -> list[Stage]:
        """All stages, from the SFT policy (theta = 0)."""
        count = len(self.trials.learning_rates)
        start = np.zeros((count, self.world.dimensions))
        pairs = human_pairs(self.world.seeds)
        if self.method.labels == "all":
            pairs = join(pairs, human_pairs(self.world.labelled))
        trained = self._train(start, pairs, np.zeros(count), self.training.seed_epochs, stage=0)
        stages = [self._take(start, trained, np.full(count, np.nan), pairs)]
        if self.method.annotator is None:
            return stages
        model = None
        if self.method.annotator == "reward_model":
            penalties = self.trials.own
            unique, place = np.unique(penalties, return_inverse=True)
            model = np.concatenate([fit_reward_model(self.world.seeds, penalty) for penalty in unique])[place]
        for number, pool in enumerate(self.world.pools, start=1):
            theta = stages[-1].theta
            pairs = annotate(
                pool, theta, theta if model is None else model, responses=self.training.responses,
                temperature=self.training.temperature, rng=np.random.default_rng([self.seed, number, 0]),
            )  # fmt: skip
            stages.append(self._round(theta, pairs, number))
        return stages

    def _round(self, theta: np.ndarray, own: Pairs, number: int) -> Stage:
        pairs = join(human_pairs(self.world.seeds), own) if self.method.seeds_in_rounds else own
        if self.method.radius == "validated":
            return self._validated(theta, pairs, number)
        radii = self._radii(theta, own)
        trained = self._train(theta, pairs, radii, self.training.epochs, stage=number)
        return self._take(theta, trained, radii, own)

    def _radii(self, theta: np.ndarray, own: Pairs) -> np.ndarray:
        rule, count = self.method.radius, len(theta)
        if rule == "own":
            return self.trials.own
        if rule != "measured":
            return np.full(count, float(rule))
        human = self.gaps(theta)
        mine = self.world.beta * np.einsum("tnd,td->tn", own.differences, theta)
        kept = own.kept > 0
        return np.array([
            factor * measured_radius(human[trial], mine[trial, kept[trial]], space=self.method.space)
            if kept[trial].any() else 0.0
            for trial, factor in enumerate(self.trials.own)
        ])  # fmt: skip

    def _validated(self, theta: np.ndarray, pairs: Pairs, number: int) -> Stage:
        """Every radius of the grid is trained from the same policy on the same pairs, and one or none is taken."""
        grid, count = np.array(self.method.radii), len(theta)
        runs = [
            self._train(theta, pairs, np.full(count, radius), self.training.epochs, stage=number) for radius in grid
        ]
        before, after = self.gaps(theta), np.stack([self.gaps(trained) for trained in runs])
        chosen = [
            choose_radius([accept_round(before[trial], gaps) for gaps in after[:, trial]], self.method.radii)
            for trial in range(count)
        ]
        accepted = np.array([place is not None for place in chosen])
        place = np.array([0 if place is None else place for place in chosen])
        trained = np.stack(runs)[place, np.arange(count)]
        radius = np.where(accepted, grid[place], np.nan)
        return Stage(np.where(accepted[:, None], trained, theta), radius, pairs.agreement, pairs.kept.mean(1), accepted)

    def _take(self, before: np.ndarray, after: np.ndarray, radius: np.ndarray, pairs: Pairs) -> Stage:
        accepted = np.ones(len(before), bool)
        if self.method.accept == "paying":
            gaps = zip(self.gaps(before), self.gaps(after), strict=True)
            accepted = np.array([accept_round(old, new).accepted for old, new in gaps])
        theta = np.where(accepted[:, None], after, before)
        return Stage(theta, radius, pairs.agreement, pairs.kept.mean(1), accepted)

    def finish(self, theta: np.ndarray, trial: int) -> np.ndarray:
        """(d,) a trial's policy (d,) after DPO on all human pairs, those that judged it included."""
        pairs = join(human_pairs(self.world.seeds), human_pairs(self.world.held_out))
        rate = Trials(self.trials.learning_rates[trial : trial + 1], np.full(1, np.nan))
        last = replace(self, method=replace(self.method, loss="dpo", radius=0.0), trials=rate)
        stage = len(self.world.pools) + 1
        return last._train(theta[None], pairs, np.zeros(1), self.training.seed_epochs, stage=stage)[0]

    def gaps(self, theta: np.ndarray) -> np.ndarray:
        """(T, N) gaps of the held-out human pairs under policies, in nats."""
        return self.world.beta * (theta @ self.world.held_out.differences.T.astype(np.float64))

    def _train(self, theta: np.ndarray, pairs: Pairs, radii: np.ndarray, epochs: int, *, stage: int) -> np.ndarray:
        return train(
            theta, pairs, self.method, self.trials, radii=radii, beta=self.world.beta,
            batch_size=self.training.batch_size, epochs=epochs, rng=np.random.default_rng([self.seed, stage, 1]),
        )  # fmt: skip
