"""Table 3 as a figure: win rate by fixed radius, and by the mean radius of the rules that find one."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from sgpo_research.figures.panels import (
    WIN_RATE,
    bounds,
    cell_name,
    curve,
    keep_to_shares,
    key,
    legend_below,
    number,
    panels,
    sft_line,
    unique,
)
from sgpo_research.figures.style import INK, Look, looks, styled
from sgpo_research.summary import Row

_LINEAR = 0.01  # the axis is linear up to this radius, since 0 is on it, and logarithmic above
_APART = 0.3  # minimum distance of labelled radii, in decades


@styled
def win_rate_by_radius(rows: list[Row]) -> Figure:
    """Rows of world, noise, step, rule (a number for a fixed radius, else a name), win_rate and radius_used."""
    fixed = [{**row, "radius": float(row["rule"])} for row in rows if _is_number(row["rule"])]
    found_by_rule = [row for row in rows if not _is_number(row["rule"])]
    rules = unique(row["rule"] for row in found_by_rule)
    steps = unique(row["step"] for row in fixed)
    look = looks([*steps, *rules])
    look |= {rule: Look(look[rule].colour, marker, "-") for rule, marker in zip(rules, "DX*Pv", strict=False)}
    titles = unique(map(cell_name, rows))
    figure, panel = panels(titles, columns=3, height=3.1)
    for axes, title in zip(panel, titles, strict=True):
        line = sft_line(axes)
        for step in steps:
            mine = [row for row in fixed if row["step"] == step and cell_name(row) == title]
            curve(axes, mine, "radius", "win_rate", look[step])
        for row in found_by_rule:
            if cell_name(row) == title:
                _mark(axes, row, look[row["rule"]])
        _radius_axis(axes, sorted({row["radius"] for row in fixed}))
    keep_to_shares(panel[0])
    figure.supylabel(WIN_RATE)
    handles = [key(look[step], f"fixed, {step} step") for step in steps]
    handles += [key(look[rule], f"{rule}, at its mean radius", line=False) for rule in rules]
    for handle in handles[len(steps) :]:
        handle.set(markersize=7, markeredgecolor=INK, markeredgewidth=0.7)
    legend_below(figure, [*handles, line])
    return figure


def _mark(axes: Axes, row: Row, look: Look) -> None:
    """Marks a rule's win rate at the radius that it used, with both intervals."""
    x, y = number(row, "radius_used"), number(row, "win_rate")
    if x is None or y is None:
        return
    if end := bounds(row, "win_rate"):
        axes.vlines(x, *end, color=look.colour, linewidth=1.5, zorder=3)
    if end := bounds(row, "radius_used"):
        axes.hlines(y, max(end[0], 0.0), min(end[1], 1.0), color=look.colour, linewidth=1.5, zorder=3)
    axes.plot(x, y, look.marker, color=look.colour, markersize=7, markeredgecolor=INK, markeredgewidth=0.7, zorder=4)


def _radius_axis(axes: Axes, radii: Sequence[float]) -> None:
    axes.set_xlabel("radius (probability)")
    axes.set_xscale("symlog", linthresh=_LINEAR)
    labels, last = [], None
    for radius in radii:
        place = radius / _LINEAR if radius < _LINEAR else 1 + math.log10(radius / _LINEAR)
        shown = last is None or place - last >= _APART
        labels.append(f"{radius:g}" if shown else "")
        last = place if shown else last
    axes.xaxis.set_major_locator(FixedLocator(radii))
    axes.xaxis.set_major_formatter(FixedFormatter(labels))
    axes.xaxis.set_minor_locator(NullLocator())


def _is_number(rule: str) -> bool:
    try:
        float(rule)
    except ValueError:
        return False
    return True
