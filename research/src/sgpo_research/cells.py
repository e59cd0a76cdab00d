"""Cells of the study's fast tables: a regime of the log-linear world or the real preferences, with a label noise."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sgpo_research.simulation.leader import Training
from sgpo_research.worlds.arrays import ArrayWorld, Candidates
from sgpo_research.worlds.loglinear import REGIMES, loglinear_world, settings_of
from sgpo_research.worlds.noise import LabelNoise
from sgpo_research.worlds.real_preferences import RealSettings, load_candidates, real_world

NOISES = (LabelNoise(), LabelNoise("symmetric", 0.25), LabelNoise("length", 0.3), LabelNoise("close", 0.3))
REAL = "real"


@dataclass(frozen=True)
class Cell:
    """A world with a label noise.

    Attributes:
        world: a regime of `sgpo_research.worlds.loglinear`, or "real".
        noise: of human labels.
        data: folder of the real preferences, for "real".
    """

    world: str
    noise: LabelNoise
    data: str | None = None

    @property
    def keys(self) -> dict[str, str]:
        """Its keys in rows."""
        return {"world": self.world, "noise": self.noise.label}

    def draw(self, seed: int, *, quick: bool) -> ArrayWorld:
        """Draws the cell's world; the quick form of a log-linear world has a fifth of the pools."""
        if self.world == REAL:
            return real_world(_real_candidates(str(self.data)), RealSettings(label_noise=self.noise), seed)
        return loglinear_world(settings_of(self.world, self.noise, quick=quick), seed)

    @property
    def training(self) -> Training:
        """Settings shared by all methods; the few real prompts get more epochs and smaller batches."""
        if self.world == REAL:
            return Training(batch_size=16, seed_epochs=3, epochs=3, responses=4)
        return Training(batch_size=64, seed_epochs=3, epochs=1, responses=4)


def cells(
    *, worlds: tuple[str, ...] = tuple(REGIMES), noises: tuple[LabelNoise, ...] = NOISES, data: Path | None = None
) -> list[Cell]:
    """Every world with every noise; with the real preferences where `data` is their folder."""
    names = [*worlds, REAL] if data is not None else list(worlds)
    return [Cell(name, noise, str(data) if name == REAL else None) for name in names for noise in noises]


@lru_cache(maxsize=1)
def _real_candidates(data: str) -> Candidates:
    return load_candidates(data)
