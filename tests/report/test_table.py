import io

import pytest
from rich.console import Console

from sgpo.report.build import write_report
from sgpo.report.quantities import find_quantities
from sgpo.report.read import read_run
from sgpo.report.table import EN_DASH, rich_table, summary_rows

TITLES = {
    "gold.value": "gold win rate",
    "heldout.accuracy": "held-out accuracy",
    "gold.agreement": "agrees with gold",
    "annotation.gap_mean": "mean gap",
    "gold.tokens": "gold tokens",
    "gold.kl": "gold KL",
    "follower.value": "robust value",
    "follower.price": "price of radius",
    "follower.moved_share": "moved share",
}


def block_of(metrics, name):
    return metrics["evaluations"].get("gold", {}) if name == "gold" else metrics.get(name, {})


def titles_of(record):
    return [quantity.title for quantity in find_quantities(record)]


def names_of(record):
    return [name for name, _ in summary_rows(record)]


def column(record, title):
    index = titles_of(record).index(title)
    return [cells[index].value for _, cells in summary_rows(record)]


def terminal(record):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(record))
    return console.export_text()


def test_every_number_of_the_metrics_is_in_its_column(run):
    record = read_run(run.write())
    assert titles_of(record) == [*TITLES.values()]
    assert names_of(record) == ["SFT model", "DPO on seeds", "round 1", "round 2", "round 3"]
    for key, title in TITLES.items():
        block, name = key.split(".")
        digits = 1 if name == "tokens" else 3
        stored = [block_of(metrics, block).get(name) for metrics in run.metrics]
        shown = [EN_DASH if value is None else f"{value:.{digits}f}" for value in stored]
        assert column(record, title)[1:] == shown


def test_the_sft_model_is_the_first_row_with_half_of_the_wins_and_no_divergence(run):
    record = read_run(run.write())
    assert column(record, "gold win rate")[0] == "0.500"
    assert column(record, "gold KL")[0] == "0.000"
    assert {column(record, title)[0] for title in TITLES.values()} == {"0.500", "0.000", EN_DASH}


def test_without_evaluations_there_is_no_sft_row_and_length_is_that_of_the_annotation(run):
    for metrics in run.metrics:
        del metrics["evaluations"]
    record = read_run(run.write())
    assert names_of(record)[0] == "DPO on seeds"
    assert column(record, "mean tokens") == [EN_DASH, "22.0", "23.0", "24.0"]
    assert titles_of(record)[:2] == ["held-out accuracy", "mean gap"]


def test_a_number_of_zero_is_not_a_missing_one(run):
    for metrics, kl in zip(run.metrics, (None, 0.0, 0.0, 0.0), strict=True):
        metrics["evaluations"]["gold"]["kl"] = kl
    record = read_run(run.write())
    assert column(record, "gold KL") == ["0.000", EN_DASH, "0.000", "0.000", "0.000"]


@pytest.mark.parametrize("key", TITLES)
def test_a_quantity_that_no_round_has_takes_its_column_away(run, key):
    block, name = key.split(".")
    for metrics in run.metrics:
        if key == "heldout.accuracy":
            del metrics["heldout"]
        block_of(metrics, block).pop(name, None)
    record = read_run(run.write())
    assert TITLES[key] not in titles_of(record)
    assert {len(cells) for _, cells in summary_rows(record)} == {len(titles_of(record))}


def test_a_null_is_an_en_dash_and_an_interval_without_its_value_is_dropped(run):
    run.metrics[2]["evaluations"]["gold"]["value"] = None
    _, cells = summary_rows(read_run(run.write()))[3]
    assert cells[0] == (EN_DASH, "")


def test_the_terminal_shows_every_number_whole_in_80_columns(run):
    record = read_run(run.write())
    text = terminal(record)
    for _, cells in summary_rows(record):
        for cell in cells:
            assert cell.value in text
            assert cell.interval in text
    assert max(map(len, text.splitlines())) <= 80


def test_round_names_are_neither_console_markup_nor_html(run):
    run.metrics[1]["name"] = "[b]<i>"
    record = read_run(run.write())
    assert "[b]<i>" in terminal(record)
    assert '<th scope="row">[b]&lt;i&gt;</th>' in write_report(run.root).read_text(encoding="utf-8")
