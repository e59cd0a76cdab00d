"""Parts that the figures share: panels, curves with their bands, axes of win rates, a legend below."""

import math
from collections.abc import Iterable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sgpo_research.figures.style import FAINT, WIDTH, Look, looks
from sgpo_research.methods import DEFAULT, PAPER, PLAIN
from sgpo_research.summary import Row

WIN_RATE = "gold win rate against the SFT policy"
_DASHES = (0, (4, 3))
_LINE = 0.21  # inches per line of the legend


def number(row: Row, key: str) -> float | None:
    """The row's value if it is finite; a measure may be absent, and bounds are nan with one seed."""
    value = row.get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def bounds(row: Row, measure: str) -> tuple[float, float] | None:
    """The measure's 95% interval, if there is one."""
    low, high = number(row, f"{measure}_low"), number(row, f"{measure}_high")
    return None if low is None or high is None else (low, high)


def cell_name(row: Row) -> str:
    """World and noise, as the title of a panel."""
    return row["world"] if row["noise"] == "none" else f"{row['world']}, {row['noise']}"


def unique(values: Iterable[str]) -> list[str]:
    """Distinct values, in order of first appearance."""
    return list(dict.fromkeys(values))


def panels(
    titles: Sequence[str], *, columns: int, height: float, width: float = WIDTH, share_x: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with one panel per title, sharing the y axis.

    Args:
        titles: of the panels, row by row.
        columns: maximum number of columns.
        height: of one row of panels, in inches.
        width: of the figure, in inches.
        share_x: whether panels also share the x axis.
    """
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(width, height * rows + 0.2), layout="constrained")
    found = figure.subplots(rows, columns, sharex=share_x, sharey=True, squeeze=False).ravel().tolist()
    for axes, title in zip(found, titles, strict=False):
        axes.set_title(title)
    for place in range(len(titles), len(found)):
        # The panel above it is the last of its column.
        found[place - columns].tick_params(labelbottom=True)
        found[place].remove()
    return figure, found[: len(titles)]


def curve(axes: Axes, rows: Iterable[Row], x: str, measure: str, look: Look, *, markers: bool = True) -> None:
    """Draws a measure over the key `x` with its 95% band; missing points and bands are left out."""
    points = sorted((row for row in rows if number(row, measure) is not None), key=lambda row: row[x])
    if not points:
        return
    place = [float(row[x]) for row in points]
    ends = [bounds(row, measure) for row in points]
    if len(points) > 1:
        low = [end[0] if end else math.nan for end in ends]
        high = [end[1] if end else math.nan for end in ends]
        axes.fill_between(place, low, high, color=look.colour, alpha=0.15, linewidth=0)
    elif ends[0]:
        axes.vlines(place[0], *ends[0], color=look.colour, linewidth=2.5, alpha=0.45)
    axes.plot(
        place, [row[measure] for row in points], color=look.colour, linestyle=look.line, linewidth=1.6,
        marker=look.marker if markers else "", markersize=4.5,
    )  # fmt: skip


def key(look: Look, label: str, *, marker: bool = True, line: bool = True) -> Line2D:
    """The legend entry of a series."""
    return Line2D(
        [], [], color=look.colour, linestyle=look.line if line else "", marker=look.marker if marker else "",
        linewidth=1.6, markersize=4.5, label=label,
    )  # fmt: skip


def sft_line(axes: Axes, *, upright: bool = False) -> Line2D:
    """Draws the SFT policy's win rate against itself, 0.5. Returns its legend entry."""
    (axes.axvline if upright else axes.axhline)(0.5, color=FAINT, linestyle=_DASHES, linewidth=1, zorder=1)
    return Line2D([], [], color=FAINT, linestyle=_DASHES, linewidth=1, label="SFT policy (0.5)")


def method_looks(rows: Iterable[Row]) -> dict[str, Look]:
    """Looks for the methods of rows; the most common methods have the same look in all figures."""
    names = unique(row["method"] for row in rows)
    found = looks(["DPO on seeds", PLAIN, DEFAULT, PAPER, *names])
    return {name: found[name] for name in names}


def keep_to_shares(axes: Axes, *, upright: bool = False) -> None:
    """Clips the axis of win rates to [0, 1], which wide intervals may exceed."""
    low, high = axes.get_xlim() if upright else axes.get_ylim()
    (axes.set_xlim if upright else axes.set_ylim)(max(low, -0.02), min(high, 1.02))


def whole_numbers(axes: Axes) -> None:
    """Ticks of the x axis at whole numbers only."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend below the panels, with as many columns as its longest label allows; the figure grows by its lines."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    most = max(1, int(figure.get_figwidth() * 72 / (5.6 * longest + 45)))
    lines = math.ceil(len(handles) / most)
    figure.set_figheight(figure.get_figheight() + _LINE * lines)
    figure.legend(handles=list(handles), loc="outside lower center", ncols=math.ceil(len(handles) / lines))
