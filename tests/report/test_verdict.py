import pytest

from sgpo.report.quantities import Estimate
from sgpo.report.read import read_run
from sgpo.report.verdict import compare, judge


def set_gold(metrics, value, low, high):
    metrics["evaluations"]["gold"].update(value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("one", "other", "result"),
    [
        ((0.7, 0.6, 0.8), (0.5, 0.4, 0.59), "higher"),
        ((0.5, 0.4, 0.59), (0.7, 0.6, 0.8), "lower"),
        ((0.7, 0.6, 0.8), (0.5, 0.4, 0.6), "no clear difference"),
        ((0.6, 0.5, 0.7), (0.6, 0.5, 0.7), "no clear difference"),
    ],
)
def test_only_intervals_that_are_apart_differ(one, other, result):
    assert compare(*(Estimate(value, ends) for value, *ends in (one, other))) == result


@pytest.mark.parametrize(
    ("gold", "claim"),
    [
        ((0.722, 0.666, 0.776), "Round 3 beats the SFT model: gold win rate 0.722 (95% interval 0.666–0.776)"),  # noqa: RUF001
        ((0.3, 0.25, 0.35), "Round 3 is worse than the SFT model: gold win rate 0.300"),
        ((0.53, 0.47, 0.59), "No clear difference between round 3 and the SFT model: gold win rate 0.530"),
    ],
)
def test_the_headline_claims_what_the_interval_allows(run, gold, claim):
    set_gold(run.metrics[3], *gold)
    headline = judge(read_run(run.write()))[0]
    assert headline.startswith(claim)
    assert headline.endswith("over 300 prompts.")


def test_dpo_on_the_seeds_is_compared_per_measure(run):
    _, gold, heldout = judge(read_run(run.write()))
    assert "DPO on seeds reached 0.580" in gold and gold.endswith("round 3 is clearly higher.")
    assert "DPO on seeds reached 0.575" in heldout and heldout.endswith("no clear difference, the intervals overlap.")


def test_without_evaluations_the_verdict_is_the_held_out_accuracy(run):
    for metrics in run.metrics:
        del metrics["evaluations"]
    verdict = judge(read_run(run.write()))
    assert verdict[0].startswith("Round 3 orders held-out human pairs better than chance: held-out accuracy 0.629")


def test_the_seed_round_alone_is_compared_with_nothing(run):
    del run.metrics[1:]
    verdict = judge(read_run(run.write()))
    assert verdict[0].startswith("DPO on seeds beats the SFT model")
    assert not any("reached" in sentence for sentence in verdict)


def test_a_value_without_an_interval_supports_no_verdict(run):
    for metrics in run.metrics:
        del metrics["heldout"], metrics["evaluations"]["gold"]["low"]
    assert "was not evaluated" in judge(read_run(run.write()))[0]


def test_no_round_no_verdict(run):
    run.metrics = []
    assert judge(read_run(run.write()))[0].startswith("No round has finished yet")
