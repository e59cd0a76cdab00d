"""The rounds of a run side by side: one set of rows, for the terminal and for the page."""

import textwrap
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
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


class Summary(NamedTuple):
    """Quantities as columns; a row per model, of its name and a cell per quantity."""

    quantities: list[Quantity]
    rows: list[tuple[str, list[Cell]]]


def summary_rows(record: RunRecord) -> Summary:
    """The rounds as rows. Quantities that no round has are left out; a missing value is an en dash.

    The SFT model is the first row if anything is known of it, DPO on the seeds (round 0) the next.
    """
    quantities = find_quantities(record)
    rows = []
    if any(quantity.sft is not None for quantity in quantities):
        known = [None if quantity.sft is None else Estimate(quantity.sft) for quantity in quantities]
        rows.append(("SFT model", [_cell(*pair) for pair in zip(known, quantities, strict=True)]))
    # Nothing is shipped while its last DPO is missing.
    is_there = record.shipped and record.shipped.round is not None and not record.missing_end
    shipped = record.judged_round.round if record.rounds and is_there else None
    for metrics in record.rounds:
        name = metrics.name + (" (shipped)" if metrics.round == shipped else "")
        rows.append((name, [_cell(quantity.read(metrics), quantity) for quantity in quantities]))
    return Summary(quantities, rows)


def _cell(found: Estimate | None, quantity: Quantity) -> Cell:
    if found is None:
        return Cell(EN_DASH)
    value, digits = f"{found.value:.{quantity.digits}f}", quantity.digits
    return Cell(value, f"{found.low:.{digits}f}{EN_DASH}{found.high:.{digits}f}" if found.has_interval else "")


def rich_table(summary: Summary) -> Table:
    """The summary for a terminal of 80 columns, with intervals below their values.

    Headings and names are wrapped here, because rich would rather break a number than a heading.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("round", no_wrap=True)
    for index, quantity in enumerate(summary.quantities):
        longest = max((len(text) for _, cells in summary.rows for text in cells[index]), default=0)
        title = textwrap.wrap(quantity.title, max([longest, *map(len, quantity.title.split())]))
        table.add_column(Text("\n".join(title)), justify="right", no_wrap=True)
    for name, cells in summary.rows:
        # Text, because names and values are not console markup.
        wrapped = Text("\n".join(textwrap.wrap(name, _NAME_WIDTH)))
        table.add_row(wrapped, *(Text("\n".join(filter(None, cell))) for cell in cells))
    return table
