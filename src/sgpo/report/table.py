"""The rounds of a run side by side: one set of rows, for the terminal and for the page."""

import textwrap
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sgpo.report.quantities import Estimate, Quantity, find_quantities
from sgpo.report.read import RunRecord

EN_DASH = "\N{EN DASH}"
_NAME_WIDTH = 9  # what ten columns leave of a terminal of 80


class Cell(NamedTuple):
    """A formatted value and its 95% interval, which is empty if there is none."""

    value: str
    interval: str = ""


class Grid(NamedTuple):
    """Headings, and rows of a name and formatted cells, one per heading after the first."""

    titles: list[str]
    rows: list[tuple[str, list[str]]]

    def turned(self) -> "Grid":
        """The rows as columns: what has long names and grows with the recipe goes down the page."""
        columns = map(list, zip(*(cells for _, cells in self.rows), strict=True))
        names = [name for name, _ in self.rows]
        return Grid([self.titles[0], *names], list(zip(self.titles[1:], columns, strict=True)))


def summary_rows(record: RunRecord) -> list[tuple[str, list[Cell]]]:
    """A cell per quantity for the SFT model, if anything is known of it, and for each round; missing: an en dash."""
    quantities = find_quantities(record)
    rows = []
    if any(quantity.sft is not None for quantity in quantities):
        rows.append(("SFT model", [_cell(quantity.sft, quantity) for quantity in quantities]))
    # Nothing is shipped while its last DPO is missing.
    is_there = record.shipped and record.shipped.round is not None and not record.missing_end
    for metrics in record.rounds:
        name = metrics.name + (" (shipped)" if is_there and metrics is record.judged_round else "")
        rows.append((name, [_cell(quantity.read(metrics), quantity) for quantity in quantities]))
    return rows


def _cell(found: Estimate | None, quantity: Quantity) -> Cell:
    if found is None:
        return Cell(EN_DASH)
    value, *interval = (f"{end:.{quantity.digits}f}" for end in (found.value, *found.interval))
    return Cell(value, EN_DASH.join(interval))


def rich_table(record: RunRecord) -> Table:
    """The rows for a terminal of 80 columns, with intervals below their values. Headings and names are wrapped here,
    because rich would rather break a number than a heading."""
    rows = summary_rows(record)
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("round", no_wrap=True)
    for index, quantity in enumerate(find_quantities(record)):
        longest = max((len(text) for _, cells in rows for text in cells[index]), default=0)
        title = textwrap.wrap(quantity.title, max([longest, *map(len, quantity.title.split())]))
        table.add_column(Text("\n".join(title)), justify="right", no_wrap=True)
    for name, cells in rows:
        # Text, because names and values are not console markup.
        wrapped = Text("\n".join(textwrap.wrap(name, _NAME_WIDTH)))
        table.add_row(wrapped, *(Text("\n".join(filter(None, cell))) for cell in cells))
    return table


def grid_table(title: str, grid: Grid) -> Table:
    """A grid for a terminal."""
    titles = map(escape, grid.titles)
    table = Table(*titles, box=SIMPLE_HEAD, show_edge=False, title=Text(title), title_justify="left")
    for name, cells in grid.rows:
        table.add_row(Text(name), *(Text(cell, justify="right") for cell in cells))
    return table
