"""Gold against the divergence from the SFT model: a method is better only where it is above the others' curve."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgpo_research.figures.panels import key, legend_below, panels, unique
from sgpo_research.figures.style import FAINT, Look, looks, styled
from sgpo_research.summary import Row


@styled
def gold_by_kl(rows: list[Row]) -> Figure:
    """Rows of labels, seed, method, policy, kl (nats) and gold: a panel for each annotator, a curve for each method.

    A curve goes from the SFT model over round 0 to the last round, and is the mean over the data seeds that all of its
    policies have; thin lines are seeds. The last DPO on human pairs is a star apart: a
    small one for each run that ships a round, a large one for their mean.
    """
    titles = unique(row["labels"] for row in rows)
    look = looks(row["method"] for row in rows)
    figure, found = panels(titles, columns=3, height=3.3)
    for axes, title in zip(found, titles, strict=True):
        here = [row for row in rows if row["labels"] == title]
        for method, one in look.items():
            _draw(axes, [row for row in here if row["method"] == method], one)
        axes.axhline(here[0]["gold"], color=FAINT, linewidth=1, zorder=1)
        axes.set_xlabel("KL to the SFT model (nats)")
    figure.supylabel("share of constraints that hold")
    legend_below(figure, [key(one, name) for name, one in look.items()])
    return figure


def _draw(axes: Axes, rows: Sequence[Row], look: Look) -> None:
    seeds = unique(row["seed"] for row in rows)
    runs = [[row for row in rows if row["seed"] == seed and row["policy"] != "final"] for seed in seeds]
    for run in runs if len(seeds) > 1 else []:
        axes.plot(*_points(run), color=look.colour, linewidth=0.7, alpha=0.35)
    whole = [run for run in runs if len(run) == max(map(len, runs))]
    if whole:
        mean = np.mean([_points(run) for run in whole], axis=0)
        axes.plot(*mean, color=look.colour, linestyle=look.line, linewidth=1.6, marker=look.marker, markersize=4)
    if last := [row for row in rows if row["policy"] == "final"]:
        axes.plot(*_points(last), color=look.colour, linestyle="", marker="*", markersize=4, alpha=0.35)
        axes.plot(*np.mean(_points(last), axis=1), color=look.colour, marker="*", markersize=9)


def _points(rows: Sequence[Row]) -> np.ndarray:
    """(2, R) divergences and gold."""
    return np.array([[row["kl"] for row in rows], [row["gold"] for row in rows]])
