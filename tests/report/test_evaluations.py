"""Evaluations of a recipe on the page and in the table."""

import pytest

from report.fake_run import FakeRun
from sgpo.errors import InputError
from sgpo.report.build import write_report
from sgpo.report.read import read_run
from sgpo.report.table import rich_table, summary_rows
from sgpo.report.verdict import judge


def measured(kind, value, width=0.05, count=80):
    bounds = {"low": None, "high": None} if value is None else {"low": value - width, "high": value + width}
    return {"kind": kind, "value": value, **bounds, "count": count}


@pytest.fixture
def fake(tmp_path):
    """A run without gold reward and held-out pairs, whose rounds a judge and pairs have judged."""
    run = FakeRun(tmp_path / "run")
    run.samples = None
    for t, metrics in enumerate(run.metrics):
        del metrics["gold"], metrics["heldout"]
        metrics["evaluations"] = {
            "arena": measured("judge", 0.4 + 0.1 * t),
            "human": measured("preferences", 0.52),
            "alpaca": measured("alpaca", None),
        }
    return run


def test_each_evaluation_with_a_number_is_a_column_with_its_interval(fake):
    summary = summary_rows(read_run(fake.write()))
    titles = [column.title for column in summary.columns]
    assert "arena" in titles and "human" in titles and "alpaca" not in titles
    values = [row[titles.index("arena")] for row in summary.rows]
    assert [cell.value for cell in values] == ["0.400", "0.500", "0.600", "0.700"]
    assert values[3].interval == "0.650\N{EN DASH}0.750"
    rich_table(summary)


def test_each_evaluation_is_a_figure_and_a_sentence(fake):
    page = write_report(fake.write()).read_text(encoding="utf-8")
    assert "Win rate: arena" in page and "Accuracy: human" in page and "Win rate: alpaca" not in page
    verdict = judge(read_run(fake.root))
    assert verdict.headline == (
        "Round 3 wins more often than not in arena: "
        "win rate 0.700 (95% interval 0.650\N{EN DASH}0.750) over 80 prompts."
    )
    assert "clearly higher" in verdict.sentences[0]
    assert "No clear difference between round 3 and chance on the pairs of human" in verdict.sentences[1]


def test_a_judge_that_could_not_be_read_leaves_a_gap(fake):
    fake.metrics[1]["evaluations"]["arena"] = measured("judge", None)
    summary = summary_rows(read_run(fake.write()))
    place = [column.title for column in summary.columns].index("arena")
    assert summary.rows[1][place].value == "\N{EN DASH}"
    assert "Win rate: arena" in write_report(fake.root).read_text(encoding="utf-8")


def test_a_judge_that_was_never_read_is_neither_column_nor_figure(fake):
    for metrics in fake.metrics:
        metrics["evaluations"]["arena"] = measured("judge", None)
    titles = [column.title for column in summary_rows(read_run(fake.write())).columns]
    assert "arena" not in titles and "human" in titles
    assert "Win rate: arena" not in write_report(fake.root).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("evaluations", "words"),
    [
        ([], None),
        ([1], "evaluations is [1]"),
        ({"arena": 3}, "evaluations.arena is 3"),
        ({"arena": {"kind": "judge", "value": "high"}}, "evaluations.arena.value is 'high'"),
    ],
)
def test_damaged_evaluations_are_named(fake, evaluations, words):
    fake.metrics[2]["evaluations"] = evaluations
    fake.write()
    if words is None:
        read_run(fake.root)
        return
    with pytest.raises(InputError) as caught:
        read_run(fake.root)
    assert words in str(caught.value)
