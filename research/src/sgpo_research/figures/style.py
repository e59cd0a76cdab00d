"""The style of figures: colours for colour-blind readers, fonts, and reproducible SVG."""

import functools
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from sgpo_research.summary import Row

WIDTH = 9.375  # inches; 900 pixels in a browser
INK, FAINT = "#222222", "#888888"
# Okabe and Ito, without yellow, which is hard to see on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#222222")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
_SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "figure.labelsize": 9.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


class Look(NamedTuple):
    """The style of one series in a figure."""

    colour: str
    marker: str
    line: Any


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each distinct name, in order; colours repeat with another line and marker."""
    found = {}
    for place, name in enumerate(dict.fromkeys(names)):
        turn, colour = divmod(place, len(COLOURS))
        found[name] = Look(COLOURS[colour], _MARKERS[(colour + turn) % len(_MARKERS)], _LINES[turn % len(_LINES)])
    return found


def styled(draw: Callable[[list[Row]], Figure]) -> Callable[[list[Row]], Figure]:
    """Makes a function draw in this style, independently of the caller's matplotlib settings, which stay unchanged."""

    @functools.wraps(draw)
    def drawn(rows: list[Row]) -> Figure:
        with _house_style():
            return draw(rows)

    return drawn


def as_svg(figure: Figure, title: str) -> str:
    """The figure as an SVG document with selectable text; the same rows give the same bytes.

    Args:
        figure: drawn by a `styled` function.
        title: for screen readers and tooltips.
    """
    stream = io.StringIO()
    with _house_style():
        matplotlib.rcParams["svg.hashsalt"] = title
        figure.savefig(stream, format="svg", metadata={"Title": title, "Date": None, "Creator": None})
    return stream.getvalue().replace("'DejaVu Sans'", _FONT)


@contextmanager
def _house_style() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield
