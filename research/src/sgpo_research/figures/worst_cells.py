"""The worst case over worlds as a heat map of methods by cells."""

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sgpo_research.figures.panels import WIN_RATE, number, unique
from sgpo_research.figures.style import INK, WIDTH, styled
from sgpo_research.methods import DEFAULT, MORE_LABELS
from sgpo_research.summary import Row

_COLOURS = colormaps["RdBu"]  # red below one half, blue above, for colour-blind readers
_GAP = 0.35  # between worlds, and before methods with more labels, in cells


@styled
def win_rate_by_cell(rows: list[Row]) -> Figure:
    """Rows of world, noise, method and win_rate: one line per method, sorted by the worst cell.

    Methods with more labels are at the bottom, since they are not comparable. The first column repeats the worst cell,
    which is framed.
    """
    values = {(row["method"], row["world"], row["noise"]): number(row, "win_rate") for row in rows}
    values = {key: value for key, value in values.items() if value is not None}
    worst = {
        method: min((value, key) for key, value in values.items() if key[0] == method)
        for method in unique(key[0] for key in values)
    }
    order = sorted(worst, key=lambda method: (method in MORE_LABELS, -worst[method][0]))
    top = {method: place + _GAP * (method in MORE_LABELS) for place, method in enumerate(order)}
    left = _columns(values)
    furthest = max(0.05, *(abs(value - 0.5) for value in values.values()))
    scale = Normalize(0.5 - furthest, 0.5 + furthest)
    right, bottom = max(left.values()) + 1, max(top.values()) + 1
    figure = Figure(figsize=(WIDTH, 0.245 * bottom + 1.35), layout="constrained")
    axes = figure.add_subplot(xlim=(0, right), ylim=(bottom, 0))
    for method, (value, where) in worst.items():
        _cell(axes, 0, top[method], value, scale, framed=False)
        for (name, world, noise), found in values.items():
            if name == method:
                _cell(axes, left[world, noise], top[method], found, scale, framed=(name, world, noise) == where)
    _labels(axes, left, top)
    return figure


def _columns(values: dict[tuple[str, str, str], float]) -> dict[tuple[str, str], float]:
    """Left edge of each cell's column, with a gap between worlds."""
    worlds = unique(key[1] for key in values)
    left, edge = {}, 1.0
    for world in worlds:
        edge += _GAP
        for noise in unique(key[2] for key in values if key[1] == world):
            left[world, noise] = edge
            edge += 1
    return left


def _cell(axes: Axes, x: float, y: float, value: float, scale: Normalize, *, framed: bool) -> None:
    colour = _COLOURS(scale(value))
    dark = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2] < 0.45
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
    if framed:
        axes.add_patch(Rectangle((x + 0.04, y + 0.06), 0.92, 0.88, fill=False, edgecolor=INK, linewidth=1.2))
    axes.text(
        x + 0.5, y + 0.52, f"{value:.2f}".removeprefix("0"), ha="center", va="center", fontsize=8.5,
        color="white" if dark else INK,
    )  # fmt: skip


def _labels(axes: Axes, left: dict[tuple[str, str], float], top: dict[str, float]) -> None:
    """Labels of methods on the left, worlds above their columns, noises below."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks([edge + 0.5 for edge in top.values()], list(top))
    for label, method in zip(axes.get_yticklabels(), top, strict=True):
        label.set_fontweight("bold" if method == DEFAULT else "normal")
    axes.text(0.5, -0.25, "worst", ha="center", fontweight="bold")
    for world in unique(world for world, _ in left):
        edges = [edge for (name, _), edge in left.items() if name == world]
        axes.text((edges[0] + edges[-1] + 1) / 2, -0.25, world, ha="center", fontweight="bold")
    axes.set_xticks(
        [edge + 0.5 for edge in left.values()], [noise for _, noise in left], rotation=45, ha="right",
        rotation_mode="anchor",
    )  # fmt: skip
    axes.set_xlabel(f"noise in the labels; numbers: {WIN_RATE}, framed: a method's worst cell")
