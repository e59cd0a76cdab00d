"""Figures as inline SVG: text is text, colours follow the page, the same run gives the same bytes."""

import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from sgpo.report.read import RunRecord, number
from sgpo.report.verdict import interval

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
_SMALL = (3.8, 2.7)  # inches
_MOST_HISTOGRAMS = 6


class Picture(NamedTuple):
    """One figure of the page: its title, how to read it, and the SVG element."""

    title: str
    reading: str
    svg: str
    wide: bool = False


def draw_figures(record: RunRecord) -> list[Picture]:
    """The figures that this run has numbers for."""
    # A context of its own: what a caller has set in matplotlib must not change the bytes.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        return list(_pictures(record))


def _pictures(record: RunRecord) -> Iterator[Picture]:
    if record.has("gold.win_rate"):
        yield Picture(
            "Win rate against the SFT model",
            "Above the dashed line the gold reward prefers the policy to the SFT model more often than not; bars are "
            "95% intervals, and rounds whose bars overlap are not clearly different.",
            _svg(_shares(record, "gold.win_rate", "win rate", "SFT model"), "win-rate"),
        )
    if record.has("heldout.accuracy"):
        yield Picture(
            "Accuracy on held-out human pairs",
            "How often the policy's implicit reward prefers the response that the human preferred; the dashed line is "
            "a coin, and bars are 95% intervals.",
            _svg(_shares(record, "heldout.accuracy", "accuracy", "chance"), "heldout"),
        )
    for one in record.measured:
        yield Picture(
            f"{one.quantity.capitalize()}: {one.name}",
            f"The {one.meaning}; the dashed line is {one.chance}, and bars are 95% intervals.",
            _svg(_shares(record, one.key, one.quantity, one.chance), f"evaluation-{one.name}"),
        )
    if record.has("gold.agreement"):
        yield Picture(
            "Self-annotation against the gold reward",
            "How often the order that the policy gives its own pairs is the order of the gold reward; below the dashed "
            "line its labels mislead.",
            _svg(_shares(record, "gold.agreement", "share in agreement", "chance"), "agreement"),
        )
    if record.has(record.length_key):
        yield Picture(
            "Length of responses",
            f"The {record.length_meaning}. Responses that keep growing may win by their length alone.",
            _svg(_drift(record, record.length_key, "mean length (tokens)"), "length"),
        )
    if record.has("gold.kl"):
        yield Picture(
            "Distance from the SFT model",
            "How far the policy has gone from where it started. A divergence that grows while the win rate does not is "
            "a sign that the policy games its own labels.",
            _svg(_drift(record, "gold.kl", "KL divergence (nats)"), "kl"),
        )
    if any(len(table.point) for table in record.gaps.values()):
        yield Picture("Gaps and worst case", _gap_reading(record), _svg(_histograms(record), "gaps"), wide=True)


def _rounds_axis(axes: Axes, record: RunRecord) -> None:
    axes.set_xlabel("round (0: DPO on the seeds)")
    last = record.config["rounds"]
    axes.set_xlim(-0.4, last + record.has_final + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if record.has_final:
        axes.xaxis.set_major_formatter(lambda place, _: "final" if place > last else f"{place:.0f}")


def _series(record: RunRecord, key: str) -> tuple[list[int], list[float]]:
    found = [(metrics["round"], number(metrics, key)) for metrics in record.rounds if number(metrics, key) is not None]
    return [t for t, _ in found], [value for _, value in found]


def _shares(record: RunRecord, key: str, label: str, baseline: str) -> Figure:
    """A share by round with its 95% interval, over the line at one half."""
    figure = Figure(figsize=_SMALL)
    axes = figure.add_subplot()
    x, y = _series(record, key)
    axes.axhline(0.5, color=_FAINT, linestyle=(0, (4, 3)), linewidth=1)
    axes.text(1, 0.5, baseline, color=_INK, fontsize=8.5, ha="right", va="bottom", transform=axes.get_yaxis_transform())
    axes.plot(x, y, color=_BLUE, linewidth=1.5, marker="o", markersize=5)
    bounds = [(m["round"], interval(m, key)) for m in record.rounds] if key != "gold.agreement" else []
    for t, bound in bounds:
        if bound is not None:
            axes.vlines(t, bound.low, bound.high, color=_BLUE, linewidth=2.5, alpha=0.45)
    ends = [end for _, bound in bounds if bound for end in (bound.low, bound.high)]
    low, high = min([0.5, *y, *ends]), max([0.5, *y, *ends])
    axes.set_ylim(max(low - 0.06, -0.02), min(high + 0.06, 1.02))
    axes.set_ylabel(label)
    _rounds_axis(axes, record)
    return figure


def _drift(record: RunRecord, key: str, label: str) -> Figure:
    """A quantity by round on an axis that starts at zero."""
    figure = Figure(figsize=_SMALL)
    axes = figure.add_subplot()
    x, y = _series(record, key)
    axes.plot(x, y, color=_BLUE, linewidth=1.5, marker="o", markersize=5)
    axes.set_ylim(1.15 * min(0.0, *y), 1.15 * max(1e-3, *y))
    axes.set_ylabel(label)
    _rounds_axis(axes, record)
    return figure


def _shown_rounds(record: RunRecord) -> list[int]:
    rounds = [t for t, table in record.gaps.items() if len(table.point)]
    if len(rounds) <= _MOST_HISTOGRAMS:
        return rounds
    return [rounds[i] for i in np.linspace(0, len(rounds) - 1, _MOST_HISTOGRAMS).round().astype(int)]


def _gap_reading(record: RunRecord) -> str:
    shown = _shown_rounds(record)
    few = f" {len(shown)} of {len(record.gaps)} rounds are drawn." if len(shown) < len(record.gaps) else ""
    probability = record.config["follower"]["space"] == "probability"
    middle = (
        "at 0.5 the policy cannot tell the two responses apart"
        if probability
        else "at 0 nats it cannot tell them apart"
    )
    return (
        f"A pair's gap says how sure the policy is of its own label: {middle}, further right it is surer. The worst "
        "case takes the pairs it is least sure of (orange, left of the dashed line) and treats them as if they lay at "
        "the triangle: the lower end of the window, the worst gap that it allows." + few
    )


def _histograms(record: RunRecord) -> Figure:
    """Gaps per round in the gap space, what moves on top of what stays."""
    rounds = _shown_rounds(record)
    probability = record.config["follower"]["space"] == "probability"
    points = np.concatenate([record.gaps[t].point for t in rounds])
    lower_ends = {t: window[0] for t in rounds if (window := _follower(record, t).get("window"))}
    low, high = (0.0, 1.0) if probability else (min([points.min(), *lower_ends.values()]), points.max() + 1e-6)
    edges = np.linspace(low, high, 41)
    figure = Figure(figsize=(8.8, 0.5 + 1.45 * len(rounds)))
    for index, (t, axes) in enumerate(
        zip(rounds, np.atleast_1d(figure.subplots(len(rounds), sharex=True)), strict=True)
    ):
        table = record.gaps[t]
        # Clipped, because sigmoid and window may round past an end by one unit in the last place.
        stacked = [np.clip(table.point, low, high)] * 2
        axes.hist(stacked, edges, weights=[table.moved, 1 - table.moved], stacked=True, color=[_ORANGE, _BLUE])
        if (marginal := _follower(record, t).get("marginal")) is not None:
            axes.axvline(marginal, color=_INK, linestyle=(0, (4, 3)), linewidth=1)
        if t in lower_ends:
            axes.plot(lower_ends[t], 0, "^", color=_ORANGE, markersize=8, clip_on=False, zorder=3)
        axes.set_ylabel("pairs")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        moved = table.moved.sum()
        axes.set_title(f"round {t}: {moved:.1f} of {len(table.moved)} pairs moved", pad=4)
        if index == 0:
            _legend(axes)
    axes.set_xlabel(
        "gap through the sigmoid: the policy's probability that its label is right" if probability else "gap (nats)"
    )
    figure.subplots_adjust(hspace=0.42)
    return figure


def _follower(record: RunRecord, t: int) -> dict[str, Any]:
    return next((m.get("follower") or {} for m in record.rounds if m["round"] == t), {})


def _legend(axes: Axes) -> None:
    entries = (
        (-265, _BLUE, "■", "stays"),
        (-215, _ORANGE, "■", "moves"),
        (-158, _ORANGE, "▲", "to here"),
        (-95, _INK, "┆", "marginal gap"),
    )
    for x, colour, mark, label in entries:
        for shift, ink, text in ((0, colour, mark), (11, _INK, label)):
            place = offset_copy(axes.transAxes, axes.figure, x=x + shift, y=4, units="points")
            axes.text(1, 1, text, color=ink, transform=place, va="bottom")


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element that scales with its place, every id prefixed with `name`."""
    stream = io.StringIO()
    matplotlib.rcParams["svg.hashsalt"] = name
    options: dict[str, Any] = {"transparent": True, "bbox_inches": "tight", "pad_inches": 0.03}
    FigureCanvasSVG(figure).figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, **options)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("'DejaVu Sans'", _FONT)
    for colour, (stand_in, fallback) in _COLOURS.items():
        text = text.replace(stand_in, f"var(--{colour}, {fallback})")
    return text.rstrip() + "\n"
