"""The rounds of a run side by side: one set of rows, for the terminal and for the page."""

import textwrap
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from sgpo.report.read import RunRecord, number

EN_DASH = "\N{EN DASH}"
_NAME_WIDTH = 9  # what ten columns leave of a terminal of 80


class Cell(NamedTuple):
    """A formatted value and its 95% interval; the interval is empty where there is none."""

    value: str
    interval: str = ""


class Column(NamedTuple):
    """A heading, and a sentence that says what the numbers are."""

    title: str
    meaning: str


@dataclass(frozen=True)
class Summary:
    """Columns and rows; every row holds a name and as many cells as there are columns after the first."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


class _Quantity(NamedTuple):
    key: str
    column: Column
    digits: int = 3
    interval: bool = False
    of_sft: float | None = None


def _quantities(record: RunRecord) -> list[_Quantity]:
    unit = "nats" if record.config["follower"]["space"] == "margin" else "probability"
    return [
        _Quantity(
            "gold.win_rate",
            Column("Win rate vs SFT", "share of test prompts on which the gold reward prefers it to the SFT model"),
            interval=True,
            of_sft=0.5,
        ),
        _Quantity(
            "gold.agreement",
            Column("Agrees with gold", "share of the round's self-annotated pairs whose order the gold reward shares"),
        ),
        _Quantity(
            "heldout.accuracy",
            Column("Held-out accuracy", "share of held-out human pairs that the policy's implicit reward orders right"),
            interval=True,
        ),
        *(_Quantity(one.key, Column(one.name, one.meaning), interval=True) for one in record.measured),
        _Quantity("annotation.gap_mean", Column("Mean gap", "mean implicit reward of chosen minus rejected, in nats")),
        _Quantity(record.length_key, Column("Mean tokens", record.length_meaning), digits=1),
        _Quantity(
            "gold.kl",
            Column("KL to SFT", "divergence from the reference, the SFT model, in nats per response"),
            of_sft=0.0,
        ),
        _Quantity("follower.value", Column("Robust value", "worst-case mean loss in the ball, in nats")),
        _Quantity(
            "follower.price",
            Column("Price of radius", f"rise of the robust value per unit of radius, in nats per unit of {unit}"),
        ),
        _Quantity("follower.moved_share", Column("Moved share", "share of the pairs that the worst case moves")),
    ]


def summary_rows(record: RunRecord) -> Summary:
    """The rounds as rows. Quantities that no round has are left out; a value that is missing is an en dash.

    DPO on the seeds (round 0) is the baseline; where a gold reward exists, the SFT model stands above it.
    """
    shown = [quantity for quantity in _quantities(record) if record.has(quantity.key)]
    rows = []
    if record.has("gold.win_rate"):
        sft = (Cell(_format(quantity.of_sft, quantity.digits)) for quantity in shown)
        rows.append((Cell("SFT model"), *sft))
    # Nothing is shipped yet where its last DPO is to come.
    is_there = record.shipped and record.shipped.round is not None and not record.missing_end
    shipped = record.judged_round["round"] if record.rounds and is_there else None
    for metrics in record.rounds:
        name = metrics["name"] + (" (shipped)" if metrics["round"] == shipped else "")
        rows.append((Cell(name), *(_cell(metrics, quantity) for quantity in shown)))
    return Summary((Column("Round", ""), *(quantity.column for quantity in shown)), tuple(rows))


def _format(value: float | None, digits: int) -> str:
    return EN_DASH if value is None else f"{value:.{digits}f}"


def _cell(metrics: dict[str, Any], quantity: _Quantity) -> Cell:
    value = _format(number(metrics, quantity.key), quantity.digits)
    block = quantity.key.partition(".")[0]
    low, high = number(metrics, f"{block}.low"), number(metrics, f"{block}.high")
    if not quantity.interval or value == EN_DASH or low is None or high is None:
        return Cell(value)
    return Cell(value, f"{low:.{quantity.digits}f}{EN_DASH}{high:.{quantity.digits}f}")


def rich_table(summary: Summary) -> Table:
    """The summary for a terminal of 80 columns; intervals stand below their values.

    Headings and names are wrapped here, because rich would rather break a number than a heading.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)
    for index, column in enumerate(summary.columns):
        longest = (
            max(len(text) for row in summary.rows for text in row[index]) if summary.rows and index else _NAME_WIDTH
        )
        title = textwrap.wrap(column.title, max([longest, *map(len, column.title.split())]))
        table.add_column(Text("\n".join(title)), justify="right" if index else "left", no_wrap=True)
    for (name, _), *cells in summary.rows:
        wrapped = textwrap.wrap(name, _NAME_WIDTH)
        # Text, because names and values are no console markup.
        table.add_row(Text("\n".join(wrapped)), *(Text("\n".join(filter(None, cell))) for cell in cells))
    return table


def html_table(summary: Summary) -> Markup:
    """The summary for the page; everything escaped, each heading with its meaning as a tooltip."""
    head = Markup("").join(
        Markup('<th scope="col" title="{}">{}</th>').format(c.meaning, c.title) for c in summary.columns
    )
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>\n').format(
            name.value, Markup("").join(Markup("<td>{}{}</td>").format(cell.value, _interval(cell)) for cell in cells)
        )
        for name, *cells in summary.rows
    )
    return Markup('<table class="summary">\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table>').format(
        head, body
    )


def _interval(cell: Cell) -> Markup:
    return Markup(' <span class="interval">{}</span>').format(cell.interval) if cell.interval else Markup("")
