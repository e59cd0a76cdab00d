"""What the report says of the round that a run ships."""

import copy

import pytest

from sgpo.errors import InputError
from sgpo.report.alerts import find_alerts
from sgpo.report.build import write_report
from sgpo.report.read import read_run
from sgpo.report.story import shipping_evidence
from sgpo.report.table import summary_rows
from sgpo.report.verdict import judge

P_VALUES, THRESHOLDS = [0.001, 0.002, 0.004, 0.3], [0.00625, 0.0125, 0.025, 0.05]
SECOND = {
    "round": 2,
    "path": "round-2/policy",
    "pairs": 80,
    "level": 0.05,
    "rounds": [
        {"round": t, "accuracy": 0.6, "score": 2.5, "p_value": p, "threshold": bound}
        for t, (p, bound) in enumerate(zip(P_VALUES, THRESHOLDS, strict=True))
    ],
}
NONE = {**SECOND, "round": None, "path": "some/sft-model", "pairs": 12}


def read(run, shipped):
    run.shipped = copy.deepcopy(shipped)
    return read_run(run.write())


def test_the_verdict_is_on_the_round_that_is_shipped_and_not_on_the_last(run):
    record = read(run, SECOND)
    assert record.shipped.sentence == (
        "Ship round 2 (round-2/policy): its order of the 80 human pairs set aside is supported, p = 0.004, below "
        "0.025, and that of no later round is (1 tested)."
    )
    assert judge(record).headline.startswith("Round 2 beats the SFT model: win rate 0.703")
    names = [row[0].value for row in summary_rows(record).rows]
    assert names == ["SFT model", "DPO on seeds", "round 1", "round 2 (shipped)", "round 3"]
    assert shipping_evidence(record).rows[3] == ("round 3", ["0.600", "2.50", "0.3", "0.05"])
    page = write_report(run.root).read_text()
    assert "Which round to ship" in page
    assert not any("set aside" in alert for alert in find_alerts(record))


def test_where_no_round_is_supported_the_report_ships_the_sft_model_and_says_why(run):
    record = read(run, NONE)
    assert record.shipped.sentence.startswith("Ship the SFT model (some/sft-model): of no round")
    assert judge(record).headline.startswith("Round 3")
    few, none = (alert for alert in find_alerts(record) if "set aside" in alert)
    assert few.startswith("Only 12 human pairs")
    assert none.startswith("No round is supported")


def test_a_run_that_chooses_no_round_says_nothing_of_it(run):
    record = read(run, None)
    assert (record.shipped, shipping_evidence(record)) == (None, None)
    assert "Which round to ship" not in write_report(run.root).read_text()


@pytest.mark.parametrize(
    "damage", [{"round": 7}, {"round": "2"}, {"pairs": "many"}, {"rounds": [{"round": 0}]}, {"rounds": None}]
)
def test_a_damaged_decision_is_named(run, damage):
    with pytest.raises(InputError, match=r"shipped\.json: damaged"):
        read(run, {**SECOND, **damage})
