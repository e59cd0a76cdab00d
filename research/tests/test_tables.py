"""Tables of the study: means over seeds, paired differences, and a run that goes on."""

import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from scipy import stats

from sgpo.errors import InputError
from sgpo_research.summary import mean_of, paired_difference, summarise
from sgpo_research.tables import StudyTable, run_table


def test_the_interval_is_students():
    values = np.random.default_rng(0).normal(size=7)
    mean = mean_of(values)
    expected = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    assert (mean.low, mean.high) == pytest.approx(expected)


def test_intervals_cover_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(1)
    means = [mean_of(sample) for sample in rng.normal(0.3, 0.1, size=(2000, 5))]
    assert np.mean([mean.low <= 0.3 <= mean.high for mean in means]) == pytest.approx(0.95, abs=0.02)


def test_one_seed_has_no_interval():
    assert mean_of([0.5])[0] == 0.5
    assert math.isnan(mean_of([0.5]).low)
    with pytest.raises(InputError, match="no values"):
        mean_of([])


def test_pairing_takes_out_what_seeds_share():
    rng = np.random.default_rng(2)
    rows = []
    for seed in range(30):
        shared = rng.normal()
        rows += [{"seed": seed, "method": "a", "rate": shared + 0.1}, {"seed": seed, "method": "b", "rate": shared}]
    paired = paired_difference(rows, key="method", first="a", second="b", measure="rate")
    assert paired[:3] == pytest.approx((0.1, 0.1, 0.1))
    means = summarise(rows, by=["method"], measure="rate")
    assert means[("a",)].high - means[("a",)].low > 0.5


def test_seeds_that_do_not_pair_are_refused():
    rows = [{"seed": 0, "method": "a", "rate": 1.0}, {"seed": 1, "method": "b", "rate": 1.0}]
    with pytest.raises(InputError, match=r"has the seeds \[0\] and 'b' \[1\]"):
        paired_difference(rows, key="method", first="a", second="b", measure="rate")


@pytest.fixture
def calls():
    return []


@pytest.fixture
def table(calls):
    def run(seed, quick, folder):
        calls.append(seed)
        if seed == 2 and calls.count(2) == 1:
            raise KeyboardInterrupt
        return [{"method": name, "rate": seed + place} for place, name in enumerate("ab")]

    return StudyTable("table9", "A table", 4, 2, run, by=("method",), measures=("rate",))


def test_a_table_that_was_interrupted_computes_the_missing_seeds_only(table, calls, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_table(table, tmp_path, quick=False)
    summary = run_table(table, tmp_path, quick=False)
    assert calls == [0, 1, 2, 2, 3]
    assert [row["method"] for row in summary] == ["a", "b"]
    assert summary[0]["rate"] == pytest.approx(1.5)
    rows = pq.read_table(tmp_path / "table9.parquet").to_pylist()
    assert [(row["seed"], row["method"]) for row in rows] == [(seed, name) for seed in range(4) for name in "ab"]
    assert "| a | 1.500 ± 2.054 | 4 |" in (tmp_path / "table9.md").read_text()


def test_the_quick_form_is_kept_apart(table, tmp_path):
    run_table(table, tmp_path, quick=True)
    assert (tmp_path / "table9-quick.parquet").exists()
    assert not (tmp_path / "table9.parquet").exists()


def test_a_figure_is_drawn_from_the_summary_and_written_whole(table, tmp_path):
    drawn = []

    def draw(summary):
        drawn.append(summary)
        figure = Figure()
        figure.suptitle(f"{summary[1]['rate']:.1f}")
        return figure

    summary = run_table(replace(table, figure=draw), tmp_path, quick=True)
    assert drawn == [summary]
    svg = ElementTree.parse(tmp_path / "table9-quick.svg").getroot()
    assert "1.5" in "".join(svg.itertext())
    assert svg.find("{http://www.w3.org/2000/svg}title").text == "A table"
    assert not list(tmp_path.glob(".*"))


def test_a_table_without_a_figure_writes_none(table, tmp_path):
    run_table(table, tmp_path, quick=True)
    assert not list(tmp_path.glob("*.svg"))


def test_bad_arguments_are_named(table, tmp_path):
    with pytest.raises(InputError, match="seeds is 0"):
        run_table(table, tmp_path, quick=True, seeds=0)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        run_table(table, tmp_path / "file", quick=True)


def test_the_difference_to_the_row_beside_is_paired_by_seed(tmp_path):
    rates = [{"a": 0.1 * seed, "b": 0.1 * seed + 0.2 + 0.01 * (seed % 2)} for seed in range(6)]
    table = StudyTable(
        "table9", "A table", 6, 2, lambda seed, quick, folder: [
            {"method": name, "rate": rate} for name, rate in rates[seed].items()
        ], by=("method",), measures=("rate",), against=("method", "a"), spread=True,
    )  # fmt: skip
    first, second = run_table(table, tmp_path, quick=False)
    assert "less" not in first
    expected = stats.ttest_rel([row["b"] for row in rates], [row["a"] for row in rates]).confidence_interval()
    assert (second["less_low"], second["less_high"]) == pytest.approx((expected.low, expected.high))
    assert first["rate_sd"] == pytest.approx(np.std([row["a"] for row in rates], ddof=1))
    text = (tmp_path / "table9.md").read_text()
    assert "| method | rate | sd | less a | seeds |" in text
    assert "| b | 0.455 ± 0.198 | 0.189 | 0.205 ± 0.006 | 6 |" in text


def test_a_part_of_another_table_is_taken_from_it_and_computed_where_that_lacks_rows(tmp_path):
    whole = StudyTable(
        "whole", "All", 2, 1, lambda seed, quick, folder: [
            {"method": name, "rate": seed + 0.5} for name in "abc"
        ], by=("method",), measures=("rate",),
    )  # fmt: skip
    computed = []

    def run(seed, quick, folder):
        computed.append(seed)
        return [{"method": "a", "rate": seed + 0.5}]

    def only_a(rows):
        return [row for row in rows if row["method"] == "a"] or None

    part = StudyTable("part", "Some", 2, 1, run, by=("method",), measures=("rate",), part=("whole", only_a))
    run_table(whole, tmp_path, quick=False, seeds=1)
    run_table(part, tmp_path, quick=False)
    assert computed == [1]
    rows = pq.read_table(tmp_path / "part.parquet").to_pylist()
    assert rows == [{"seed": seed, "method": "a", "rate": seed + 0.5} for seed in range(2)]


def test_rows_of_other_data_are_refused_and_are_no_part(tmp_path):
    def table(name, data, **more):
        return StudyTable(
            name, "A table", 1, 1, lambda seed, quick, folder: [{"method": str(data), "rate": 0.5}], by=("method",),
            measures=("rate",), data=data, **more,
        )  # fmt: skip

    first = tmp_path / "first"
    run_table(table("whole", None), tmp_path, quick=False)
    with pytest.raises(InputError, match=r"00000\.parquet was computed with --data left out"):
        run_table(table("whole", first), tmp_path, quick=False)
    part = ("whole", lambda rows: rows)
    assert run_table(table("part", first, part=part), tmp_path, quick=False)[0]["method"] == str(first)
    assert run_table(table("part", first, part=part), tmp_path, quick=False)[0]["method"] == str(first)
    with pytest.raises(InputError, match=r"was computed with --data .*first; allowed: the same"):
        run_table(table("part", tmp_path / "second"), tmp_path, quick=False)
