"""Evaluations of a recipe on the page and in the table."""

import pytest

from report.fake_run import SAMPLES, FakeRun
from report.test_build import words
from sgpo.report.alerts import find_alerts
from sgpo.report.build import write_report
from sgpo.report.quantities import find_quantities
from sgpo.report.read import read_run
from sgpo.report.table import rich_table, summary_rows
from sgpo.report.verdict import judge


def measured(kind, value, width=0.05, count=80):
    bounds = {"low": None, "high": None} if value is None else {"low": value - width, "high": value + width}
    return {"kind": kind, "value": value, **bounds, "count": count}


@pytest.fixture
def fake(tmp_path):
    """A run without held-out pairs, evaluated by a judge and by human pairs."""
    run = FakeRun(tmp_path / "run")
    run.samples = {}
    for t, metrics in enumerate(run.metrics):
        del metrics["heldout"]
        metrics["evaluations"] = {
            "arena": measured("judge", 0.4 + 0.1 * t),
            "human": measured("preferences", 0.52),
            "alpaca": measured("alpaca", None),
        }
    return run


@pytest.fixture
def rewarded(tmp_path):
    """A run of two reward evaluations, the second of which compares with another model."""
    run = FakeRun(tmp_path / "run")
    run.config["evaluate"] = [
        {"kind": "reward", "name": None, "baseline": None},
        {"kind": "reward", "name": "other", "baseline": "some/other-model"},
    ]
    run.samples = {}
    for metrics in run.metrics:
        gold = metrics["evaluations"].pop("gold")
        metrics["evaluations"] = {"reward": gold, "other": {**gold, "value": 0.3, "low": 0.2, "high": 0.4, "kl": 9.5}}
    return run


def titles_of(record):
    return [quantity.title for quantity in find_quantities(record)]


def page_of(run):
    return write_report(run.root).read_text(encoding="utf-8")


def test_each_evaluation_with_a_number_is_a_column_with_its_interval(fake):
    record = read_run(fake.write())
    titles = titles_of(record)
    assert titles[:2] == ["arena win rate", "human accuracy"]
    assert not any("alpaca" in title for title in titles)
    cells = [cells[0] for _, cells in summary_rows(record)]
    assert [cell.value for cell in cells] == ["0.500", "0.400", "0.500", "0.600", "0.700"]
    assert cells[4].interval == "0.650\N{EN DASH}0.750"
    rich_table(record)


def test_each_evaluation_is_a_figure_and_a_sentence(fake):
    fake.write()
    page = page_of(fake)
    assert "Win rate against the SFT model (arena)" in page and "Accuracy on the human pairs of human" in page
    assert "(alpaca)" not in page
    verdict = judge(read_run(fake.root))
    assert verdict[0] == (
        "Round 3 beats the SFT model: arena win rate 0.700 (95% interval 0.650\N{EN DASH}0.750) over 80 prompts."
    )
    assert "clearly higher" in verdict[1]
    assert "No clear difference between round 3 and chance on the human pairs of human" in verdict[2]


def test_a_judge_that_could_not_be_read_leaves_a_gap(fake):
    fake.metrics[1]["evaluations"]["arena"] = measured("judge", None)
    _, cells = summary_rows(read_run(fake.write()))[2]
    assert cells[0].value == "\N{EN DASH}"
    assert "(arena)" in page_of(fake)


def test_a_judge_that_was_never_read_is_neither_column_nor_figure(fake):
    for metrics in fake.metrics:
        metrics["evaluations"]["arena"] = measured("judge", None)
    titles = titles_of(read_run(fake.write()))
    assert "arena win rate" not in titles and "human accuracy" in titles
    assert "(arena)" not in page_of(fake)


def test_a_kind_of_a_newer_version_is_left_out(fake):
    for metrics in fake.metrics:
        metrics["evaluations"]["future"] = measured("debate", 0.9)
    assert not any("future" in title for title in titles_of(read_run(fake.write())))
    assert "future" not in words(page_of(fake))


def test_everything_is_reported_of_each_reward_evaluation_under_its_name(rewarded):
    rewarded.metrics[2]["evaluations"]["other"]["agreement"] = 0.4
    record = read_run(rewarded.write())
    titles = titles_of(record)
    for name in ("reward", "other"):
        assert {f"{name} win rate", f"agrees with {name}", f"{name} tokens", f"{name} KL"} <= set(titles)
    text = words(page_of(rewarded))
    for title in ("Win rate against the SFT model (reward)", "Win rate against some/other-model (other)"):
        assert title in text
    for title in ("Agreement of the annotation with the reward", "KL divergence from the SFT model"):
        assert f"{title} (reward)" in text and f"{title} (other)" in text
    assert any(alert.endswith("the reward of other agrees with 0.400 of its pairs.") for alert in find_alerts(record))


def test_a_baseline_other_than_the_sft_model_is_named_and_the_sft_model_has_no_win_rate_against_it(rewarded):
    record = read_run(rewarded.write())
    verdict = judge(record)
    assert verdict[0].startswith("Round 3 beats the SFT model: reward win rate 0.722")
    assert verdict[2].startswith("Round 3 is worse than some/other-model: other win rate 0.300")
    titles, (name, cells) = titles_of(record), summary_rows(record)[0]
    assert name == "SFT model"
    shown = {title: cell.value for title, cell in zip(titles, cells, strict=True)}
    assert (shown["reward win rate"], shown["other win rate"], shown["other KL"]) == ("0.500", "\N{EN DASH}", "0.000")


def test_samples_are_shown_per_evaluation_with_what_it_compares_with(rewarded):
    rewarded.samples = {"reward": SAMPLES[:1], "other": SAMPLES[1:]}
    rewarded.write()
    text = words(page_of(rewarded))
    reward, other = text.index("Sample responses: reward"), text.index("Sample responses: other")
    assert reward < text.index(SAMPLES[0]["response"]) < other < text.index(SAMPLES[1]["response"])
    assert "SFT model · reward 0.320" in text and "some/other-model · reward 1.370" in text


@pytest.mark.parametrize(("gain", "sentence"), [(0.2, "follows more than"), (-0.2, "follows less than"), (0.02, "")])
def test_the_verdict_on_ifeval_is_the_paired_gain_over_the_sft_model(tmp_path, gain, sentence):
    run = FakeRun(tmp_path / "run")
    run.samples = {}
    for t, metrics in enumerate(run.metrics):
        del metrics["heldout"]
        paired = {"mean": gain, "low": gain - 0.05, "high": gain + 0.05, "count": 120}
        rates = {"parts": {"prompts": [0.3 + 0.01 * t, 0.25]}, "gain": {"instructions": paired}}
        metrics["evaluations"] = {"own": {**measured("ifeval", 0.3 + 0.01 * t), **rates}}
    record = read_run(run.write())
    assert titles_of(record)[:2] == ["own followed", "own gain"]
    expected = (
        f"Round 3 {sentence} the SFT model" if sentence else "No clear difference between round 3 and the SFT model"
    )
    assert judge(record)[0].startswith(f"{expected}: own gain {gain:.3f} (95% interval ")
    text = words(page_of(run))
    assert "Following instructions (own)" in text and "What own consists of" in text and "0.250" in text
