"""Figures as inline SVG: text is text, colours follow the page, the same run gives the same bytes."""

import io
import re
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sgpo.report.quantities import Quantity, find_quantities, follower_answers
from sgpo.report.read import RunRecord

# Stand-ins that the SVG text replaces by the page's own colours, so that figures follow its light or dark scheme.
_COLOURS = {
    "ink": ("#010203", "#222222"),
    "faint": ("#040506", "#888888"),
    "blue": ("#070809", "#0072b2"),
    "orange": ("#0a0b0c", "#d55e00"),
}
_INK, _FAINT, _BLUE, _ORANGE = (stand_in for stand_in, _ in _COLOURS.values())
_FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
_SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
}
_MOST_HISTOGRAMS = 6


class Picture(NamedTuple):
    """One figure of the page: its title, how to read it, and the SVG element."""

    title: str
    reading: str
    svg: str
    wide: bool = False


def draw_figures(record: RunRecord) -> list[Picture]:
    """The figures that this run has numbers for."""
    shown = _shown_rounds(record)
    # A context of its own: what a caller has set in matplotlib must not change the bytes.
    with style.context(_SETTINGS, after_reset=True):
        pictures = [
            Picture(one.chart.title, one.chart.reading, _svg(_by_round(record, one), f"chart-{index}"))
            for index, one in enumerate(one for one in find_quantities(record) if one.chart)
        ]
        if shown:
            svg = _svg(_histograms(record, shown), "gaps")
            pictures.append(Picture("Gaps and worst case", _gap_reading(record, shown), svg, wide=True))
    return pictures


def _by_round(record: RunRecord, quantity: Quantity) -> Figure:
    """A quantity by round: a share with its 95% interval and the line at 1/2, or an axis that starts at 0."""
    figure = Figure(figsize=(3.8, 2.7))
    axes = figure.add_subplot()
    found = [(metrics.round, one) for metrics in record.rounds if (one := quantity.read(metrics))]
    if middle := quantity.chart.middle:
        axes.axhline(0.5, color=_FAINT, linestyle=(0, (4, 3)), linewidth=1)
        edge = axes.get_yaxis_transform()
        axes.text(1, 0.5, middle, color=_INK, fontsize=8.5, ha="right", va="bottom", transform=edge)
    times, values = [t for t, _ in found], [one.value for _, one in found]
    axes.plot(times, values, color=_BLUE, linewidth=1.5, marker="o", markersize=5)
    for t, one in found:
        if one.interval:
            axes.vlines(t, *one.interval, color=_BLUE, linewidth=2.5, alpha=0.45)
    ends = [*values, *(end for _, one in found for end in one.interval)]
    if middle:
        axes.set_ylim(max(min(0.5, *ends) - 0.06, -0.02), min(max(0.5, *ends) + 0.06, 1.02))
    else:
        axes.set_ylim(1.15 * min(0.0, *ends), 1.15 * max(1e-3, *ends))
    last = record.config["rounds"]
    limits = (-0.4, last + record.has_final + 0.4)
    axes.set(xlabel="round (0: DPO on the seeds)", ylabel=quantity.chart.axis, xlim=limits)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if record.has_final:
        axes.xaxis.set_major_formatter(lambda place, _: "final" if place > last else f"{place:.0f}")
    return figure


def _shown_rounds(record: RunRecord) -> list[int]:
    rounds = [t for t, table in record.gaps.items() if len(table.point)]
    places = np.linspace(0, len(rounds) - 1, min(len(rounds), _MOST_HISTOGRAMS)).round().astype(int)
    return [rounds[place] for place in places]


def _gap_reading(record: RunRecord, shown: list[int]) -> str:
    few = f" The figure shows {len(shown)} of {len(record.gaps)} rounds." if len(shown) < len(record.gaps) else ""
    several = any(metrics.follower and metrics.follower.by_source for metrics in record.rounds)
    sources = " Each source of pairs has its own radius and line; pairs of a source without a radius stay."
    middle = "0.5" if record.config["follower"]["space"] == "probability" else "0 nats"
    return (
        "The gap of a pair is the implicit reward of its chosen response minus that of its rejected one: at "
        f"{middle} the policy cannot tell them apart, and further right it is surer of the label. The worst case takes "
        "the pairs with the lowest gaps (orange, left of the dashed line) and moves them to the lower end of the "
        f"window (the triangle), the lowest gap that it allows.{sources if several else ''}{few}"
    )


def _histograms(record: RunRecord, rounds: list[int]) -> Figure:
    """Gaps per round in the gap space, what moves on top of what stays."""
    unit = "gap (nats)"
    found = {metrics.round: follower_answers(metrics).values() for metrics in record.rounds}
    answers = {t: found.get(t, ()) for t in rounds}
    points = np.concatenate([record.gaps[t].point for t in rounds])
    low = min([points.min(), *(one.window[0] for t in rounds for one in answers[t] if one.window)])
    high = points.max() + 1e-6
    if record.config["follower"]["space"] == "probability":
        low, high, unit = 0.0, 1.0, "gap through the sigmoid: the policy's probability that the label is right"
    edges = np.linspace(low, high, 41)
    figure = Figure(figsize=(8.8, 0.5 + 1.45 * len(rounds)))
    every_axes = np.atleast_1d(figure.subplots(len(rounds), sharex=True))
    for t, axes in zip(rounds, every_axes, strict=True):
        table = record.gaps[t]
        # Clipped, because sigmoid and window may round past an end by one unit in the last place.
        stacked = [np.clip(table.point, low, high)] * 2
        axes.hist(stacked, edges, weights=[table.moved, 1 - table.moved], stacked=True, color=[_ORANGE, _BLUE])
        for answer in answers[t]:
            if answer.marginal is not None:
                axes.axvline(answer.marginal, color=_INK, linestyle=(0, (4, 3)), linewidth=1)
            if answer.window:
                axes.plot(answer.window[0], 0, "^", color=_ORANGE, markersize=8, clip_on=False, zorder=3)
        axes.set_ylabel("pairs")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.set_title(f"round {t}: {table.moved.sum():.1f} of {len(table.moved)} pairs moved", pad=4)
    _legend(every_axes[0])
    every_axes[-1].set_xlabel(unit)
    figure.subplots_adjust(hspace=0.42)
    return figure


def _legend(axes: Axes) -> None:
    entries = (
        (-265, _BLUE, "■", "stays"),
        (-215, _ORANGE, "■", "moves"),
        (-158, _ORANGE, "▲", "to here"),
        (-95, _INK, "┆", "marginal gap"),
    )
    for x, colour, mark, label in entries:
        for shift, ink, text in ((0, colour, mark), (11, _INK, label)):
            axes.annotate(text, (1, 1), (x + shift, 4), "axes fraction", "offset points", color=ink, va="bottom")


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element that scales with its place, every id prefixed with `name`."""
    stream = io.StringIO()
    matplotlib.rcParams["svg.hashsalt"] = name
    figure.savefig(stream, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.03)
    text = "<svg" + stream.getvalue().partition("<svg")[2]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("'DejaVu Sans'", _FONT)
    for colour, (stand_in, fallback) in _COLOURS.items():
        text = text.replace(stand_in, f"var(--{colour}, {fallback})")
    return text.rstrip() + "\n"
