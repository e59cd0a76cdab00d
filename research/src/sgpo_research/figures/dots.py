"""A dot with its interval for every method, one panel per world."""

from collections.abc import Callable

from matplotlib.figure import Figure

from sgpo_research.figures.panels import (
    WIN_RATE,
    bounds,
    keep_to_shares,
    key,
    legend_below,
    number,
    panels,
    sft_line,
    unique,
)
from sgpo_research.figures.style import FAINT, looks, styled
from sgpo_research.methods import DEFAULT
from sgpo_research.summary import Row

_SPREAD = 0.5  # share of a method's line that its dots use


@styled
def win_rate_by_method(rows: list[Row]) -> Figure:
    """Rows of world, noise, method and win_rate: a panel per world, a colour per noise."""
    return _dots(rows, lambda row: row["world"], lambda row: f"labels: {_noise(row)}")


@styled
def win_rate_by_choice(rows: list[Row]) -> Figure:
    """Rows of world, noise, method, choice and win_rate: a panel per world, a colour per choice of seeds."""
    return _dots(rows, lambda row: row["world"], lambda row: f"seeds: {row['choice']}")


def _dots(rows: list[Row], panel_of: Callable[[Row], str], series_of: Callable[[Row], str]) -> Figure:
    titles, series = unique(map(panel_of, rows)), unique(map(series_of, rows))
    methods = unique(row["method"] for row in rows)
    look = looks(series)
    figure, found = panels(titles, columns=4, height=0.7 + len(methods) * (0.13 + 0.11 * len(series)))
    for axes, title in zip(found, titles, strict=True):
        line = sft_line(axes, upright=True)
        for row in rows:
            if panel_of(row) != title or (value := number(row, "win_rate")) is None:
                continue
            one, rank = look[series_of(row)], series.index(series_of(row))
            y = methods.index(row["method"]) + _SPREAD * ((rank + 0.5) / len(series) - 0.5)
            if end := bounds(row, "win_rate"):
                axes.hlines(y, *end, color=one.colour, linewidth=1.4)
            axes.plot(value, y, one.marker, color=one.colour, markersize=4.5)
        axes.grid(axis="y", color=FAINT, alpha=0.2, linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(WIN_RATE.replace(" against", "\nagainst"))
    found[0].set_yticks(range(len(methods)), methods)
    found[0].set_ylim(len(methods) - 0.4, -0.6)
    for label, method in zip(found[0].get_yticklabels(), methods, strict=True):
        label.set_fontweight("bold" if method == DEFAULT else "normal")
    keep_to_shares(found[0], upright=True)
    handles = [key(one, name, line=False) for name, one in look.items()] if len(series) > 1 else []
    legend_below(figure, [*handles, line])
    return figure


def _noise(row: Row) -> str:
    return "as drawn" if row["noise"] == "none" else row["noise"]
