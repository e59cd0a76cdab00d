import io

import pytest
from rich.console import Console

from sgpo.report.read import read_run
from sgpo.report.table import EN_DASH, html_table, rich_table, summary_rows

TITLES = {
    "gold.win_rate": "Win rate vs SFT",
    "gold.agreement": "Agrees with gold",
    "heldout.accuracy": "Held-out accuracy",
    "annotation.gap_mean": "Mean gap",
    "gold.response_tokens": "Mean tokens",
    "gold.kl": "KL to SFT",
    "follower.value": "Robust value",
    "follower.price": "Price of radius",
    "follower.moved_share": "Moved share",
}


def column(summary, title):
    index = [column.title for column in summary.columns].index(title)
    return [row[index].value for row in summary.rows]


def terminal(summary, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rich_table(summary))
    return console.export_text()


def test_every_number_of_the_metrics_is_in_its_column(run):
    summary = summary_rows(read_run(run.write()))
    assert [title for title, _ in summary.columns] == ["Round", *TITLES.values()]
    assert column(summary, "Round") == ["SFT model", "DPO on seeds", "round 1", "round 2", "round 3"]
    for key, title in TITLES.items():
        block, name = key.split(".")
        digits = 1 if name == "response_tokens" else 3
        stored = [metrics.get(block, {}).get(name) for metrics in run.metrics]
        shown = [EN_DASH if value is None else f"{value:.{digits}f}" for value in stored]
        assert column(summary, title)[1:] == shown


def test_the_sft_model_is_the_first_row_with_half_of_the_wins_and_no_divergence(run):
    summary = summary_rows(read_run(run.write()))
    assert column(summary, "Win rate vs SFT")[0] == "0.500"
    assert column(summary, "KL to SFT")[0] == "0.000"
    assert {column(summary, title)[0] for title in TITLES.values()} == {"0.500", "0.000", EN_DASH}


def test_without_a_gold_reward_there_is_no_sft_row_and_length_is_that_of_the_annotation(run):
    for metrics in run.metrics:
        del metrics["gold"]
    summary = summary_rows(read_run(run.write()))
    assert column(summary, "Round")[0] == "DPO on seeds"
    assert column(summary, "Mean tokens") == [EN_DASH, "22.0", "23.0", "24.0"]
    assert [title for title, _ in summary.columns][1:3] == ["Held-out accuracy", "Mean gap"]


@pytest.mark.parametrize("key", TITLES)
def test_a_quantity_that_no_round_has_takes_its_column_away(run, key):
    block, name = key.split(".")
    for metrics in run.metrics:
        metrics.get(block, {}).pop(name, None)
    if key == "gold.response_tokens":
        for metrics in run.metrics:
            metrics.get("annotation", {}).pop(name, None)
    summary = summary_rows(read_run(run.write()))
    assert TITLES[key] not in [title for title, _ in summary.columns]
    assert {len(row) for row in summary.rows} == {len(summary.columns)}


def test_a_null_is_an_en_dash_and_an_interval_without_its_value_is_dropped(run):
    run.metrics[2]["gold"]["win_rate"] = None
    row = summary_rows(read_run(run.write())).rows[3]
    assert row[1] == (EN_DASH, "")


def test_the_terminal_shows_every_number_whole_in_80_columns(run):
    summary = summary_rows(read_run(run.write()))
    text = terminal(summary)
    for row in summary.rows:
        for cell in row[1:]:
            assert cell.value in text
            assert cell.interval in text
    assert max(map(len, text.splitlines())) <= 80


def test_round_names_are_neither_console_markup_nor_html(run):
    run.metrics[1]["name"] = "[b]<i>"
    summary = summary_rows(read_run(run.write()))
    assert "[b]<i>" in terminal(summary)
    assert "[b]&lt;i&gt;" in html_table(summary)
