"""Curves of methods, one panel per world: win rate by round, and by number of held-out pairs."""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sgpo_research.figures.panels import (
    WIN_RATE,
    cell_name,
    curve,
    keep_to_shares,
    key,
    legend_below,
    method_looks,
    number,
    panels,
    sft_line,
    unique,
    whole_numbers,
)
from sgpo_research.figures.style import Look, styled
from sgpo_research.summary import Row


@styled
def win_rate_by_round(rows: list[Row]) -> Figure:
    """Figure 2: rows of world, noise, method, round and win_rate."""
    return _by_round(rows, cell_name)


@styled
def win_rate_by_round_and_regime(rows: list[Row]) -> Figure:
    """The text world: rows of regime, method, round and win_rate."""
    return _by_round(rows, lambda row: row["regime"])


@styled
def win_rate_by_held_out_pairs(rows: list[Row]) -> Figure:
    """Rows of world, noise, pairs, criterion, method and win_rate: a column per cell, a row per criterion."""
    criteria, cells = unique(row["criterion"] for row in rows), unique(map(cell_name, rows))
    look = method_looks(rows)
    titles = [f"{cell}\ntuned by: {criterion}" for criterion in criteria for cell in cells]
    figure, found = panels(titles, columns=len(cells), height=2.3)
    sizes = sorted({row["pairs"] for row in rows})
    for place, axes in enumerate(found):
        criterion, cell = criteria[place // len(cells)], cells[place % len(cells)]
        here = [row for row in rows if row["criterion"] == criterion and cell_name(row) == cell]
        line = sft_line(axes)
        for name in look:
            curve(axes, [row for row in here if row["method"] == name], "pairs", "win_rate", look[name])
        # Sizes double, so a logarithmic axis spaces them evenly.
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    for axes in found[-len(cells) :]:
        axes.set_xlabel("held-out pairs")
    keep_to_shares(found[0])
    figure.supylabel(WIN_RATE)
    legend_below(figure, [*(key(one, name) for name, one in look.items()), line])
    return figure


def _by_round(rows: list[Row], panel_of: Callable[[Row], str]) -> Figure:
    look = method_looks(rows)
    # A method without rounds is drawn as a horizontal line.
    levels = {name for name in look if len({row["round"] for row in rows if row["method"] == name}) == 1}
    if len(levels) == len(look):
        levels = set()
    look |= {name: look[name]._replace(line=(0, (1, 1.5))) for name in levels}
    titles = unique(map(panel_of, rows))
    figure, found = panels(titles, columns=3, height=3.1)
    for axes, title in zip(found, titles, strict=True):
        line = sft_line(axes)
        for name, one in look.items():
            mine = [row for row in rows if row["method"] == name and panel_of(row) == title]
            curve(axes, mine, "round", "win_rate", one)
            if name in levels:
                _level(axes, mine, one)
        axes.set_xlabel("round (0: DPO on the seeds)")
        whole_numbers(axes)
    keep_to_shares(found[0])
    figure.supylabel(WIN_RATE)
    legend_below(figure, [*(key(one, name) for name, one in look.items()), line])
    return figure


def _level(axes: Axes, rows: list[Row], look: Look) -> None:
    for row in rows:
        if (value := number(row, "win_rate")) is not None:
            axes.axhline(value, color=look.colour, linestyle=look.line, linewidth=1.2, zorder=1)
