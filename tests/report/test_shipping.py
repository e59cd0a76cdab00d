"""What the report says of the round that a run ships."""

import copy
import html
import json

import pytest

from report.fake_run import fake_metrics
from sgpo.errors import InputError
from sgpo.report.alerts import find_alerts
from sgpo.report.build import write_report
from sgpo.report.read import read_run
from sgpo.report.story import shipping_evidence, stage_times
from sgpo.report.table import summary_rows
from sgpo.report.verdict import judge, judge_shipping
from sgpo.stats.acceptance import smallest_p_value

P_VALUES, THRESHOLDS = [0.001, 0.002, 0.004, 0.3], [0.00625, 0.0125, 0.025, 0.05]
SECOND = {
    "round": 2,
    "path": "round-2/policy",
    "pairs": 80,
    "enough": 50,
    "level": 0.05,
    "rounds": [
        {"round": t, "accuracy": 0.6, "score": 2.5, "p_value": p, "threshold": bound}
        for t, (p, bound) in enumerate(zip(P_VALUES, THRESHOLDS, strict=True))
    ],
}
FINAL = {**SECOND, "path": "final/policy"}
NONE = {**SECOND, "round": None, "path": "some/sft-model", "pairs": 12}


def read(run, shipped):
    run.shipped = copy.deepcopy(shipped)
    return read_run(run.write())


def test_the_verdict_is_on_the_round_that_is_shipped_and_not_on_the_last(run):
    record = read(run, SECOND)
    assert judge_shipping(record) == [
        "Ship round 2 (round-2/policy): the 80 validation pairs support it (p = 0.004, below 0.025), and support no "
        "later round (1 tested)."
    ]
    assert judge(record)[0].startswith("Round 2 beats the SFT model: gold win rate 0.703")
    names = [name for name, _ in summary_rows(record)]
    assert names == ["SFT model", "DPO on seeds", "round 1", "round 2 (shipped)", "round 3"]
    assert shipping_evidence(record).rows[3] == ("round 3", ["0.600", "2.50", "0.3", "0.05"])
    page = write_report(run.root).read_text()
    assert "Which round to ship" in page
    assert not any("validation pairs" in alert for alert in find_alerts(record))


def unsupported(pairs, p_value, accuracy=0.55):
    """Four rounds of which none is supported, with the same numbers each."""
    numbers = {"p_value": p_value, "accuracy": accuracy, "score": 0.4}
    return {**NONE, "pairs": pairs, "rounds": [{**one, **numbers} for one in SECOND["rounds"]]}


@pytest.mark.parametrize(
    ("pairs", "p_value", "found", "why"),
    [
        (2, 0.3, "give no evidence for or against any round", "2 validation pairs cannot give any: even if a round"),
        (1, 0.999, "give no evidence for or against any round", "1 validation pair cannot give any"),
        (
            3,
            0.3,
            "give no evidence for or against any round",
            "agrees with people in 55% of 3 validation pairs",
        ),
        (49, 0.3, "give no evidence for or against any round", "With fewer than 50 pairs the test often misses"),
        (50, 0.3, "do not show that a round is better", "So many usually recognise one unless labels are wrong."),
        (20, 0.97, "are evidence against round 3", "On 20 validation pairs its implicit reward prefers what people"),
        (80, 0.97, "are evidence against round 3", "(p = 0.03): self-annotation or the labels may have gone wrong."),
    ],
)
def test_no_evidence_is_told_from_evidence_against_a_round_and_followed_by_what_to_do(run, pairs, p_value, found, why):
    record = read(run, unsupported(pairs, p_value))
    headline, reason, to_do = judge_shipping(record)
    assert headline == f"Ship the SFT model (some/sft-model): the validation pairs {found}."
    assert why in reason
    assert "leader.accept: always" in to_do and "round-3/policy" in to_do and "data.validation_share" in to_do
    assert judge(record)[0].startswith("Round 3")
    page = " ".join(html.unescape(write_report(run.root).read_text()).split())
    assert all(f"{sentence}" in page for sentence in (headline, reason, to_do))


def test_a_p_value_that_so_few_pairs_cannot_reach_is_named(run):
    reason = judge_shipping(read(run, unsupported(2, 0.3)))[1]
    assert f"its p-value would be {smallest_p_value(2):.2g}, and it has to be below 0.05" in reason
    assert smallest_p_value(3) < 0.05 <= smallest_p_value(2)


def test_few_pairs_that_choose_a_round_are_named_once_on_the_page(run):
    said = "With fewer than 50 pairs the test often misses a good round: a later one may be better."
    assert judge_shipping(read(run, {**SECOND, "pairs": 12}))[1:] == [said]
    page = " ".join(html.unescape(write_report(run.root).read_text()).split())
    assert page.count("the test often misses a good round") == 1
    assert judge_shipping(read(run, {**SECOND, "pairs": 50}))[1:] == []
    # Nothing is missed where the last round is shipped.
    assert judge_shipping(read(run, {**SECOND, "pairs": 12, "round": 3, "path": "round-3/policy"}))[1:] == []


def test_a_run_that_chooses_no_round_says_nothing_of_it(run):
    record = read(run, None)
    assert (record.shipped, shipping_evidence(record), judge_shipping(record)) == (None, None, [])
    assert "Which round to ship" not in write_report(run.root).read_text()


def test_a_damaged_decision_is_named_by_file_and_key(run):
    for damage, key in (
        ({"round": 7}, "round is 7"),
        ({"round": "two"}, 'round is "two"'),
        ({"pairs": "many"}, 'pairs is "many"'),
        ({"rounds": [{"round": 0}]}, r"rounds\.0\.score: Field required"),
        ({"rounds": None}, "rounds is null"),
    ):
        with pytest.raises(InputError, match=rf"shipped\.json: .*{key}"):
            read(run, {**SECOND, **damage})


@pytest.mark.parametrize(
    ("leader", "shipped", "missing"),
    [
        ({"accept": "supported"}, None, "The choice of the round to ship"),
        ({"accept": "supported_any_length"}, None, "The choice of the round to ship"),
        ({"accept": "supported"}, FINAL, "The last DPO on all human pairs"),
        ({"accept": "always", "final_epochs": 2}, None, "The last DPO on all human pairs"),
        ({"accept": "supported"}, SECOND, None),
        ({"accept": "supported"}, {**NONE, "path": "final/sft-model"}, None),
        ({"accept": "always", "final_epochs": None}, None, None),
        ({"accept": "always", "final_epochs": 0}, None, None),
        ({}, None, None),
    ],
)
def test_a_run_whose_rounds_are_done_and_whose_end_is_not_is_called_unfinished(run, leader, shipped, missing):
    run.config["leader"] |= leader
    record = read(run, shipped)
    page = write_report(run.root).read_text()
    if missing is None:
        assert "Not finished" not in page
    else:
        assert f"Not finished.</strong> {missing} is still missing." in page
        # No row has the policy that is shipped.
        assert not any("shipped" in name for name, _ in summary_rows(record))


def test_after_a_last_dpo_the_report_judges_it_and_calls_the_run_finished(run):
    last = {key: value for key, value in fake_metrics(3).items() if key not in ("annotation", "follower")}
    run.metrics.append({**last, "round": 4, "name": "final DPO"})
    run.config["leader"]["accept"] = "supported"
    record = read(run, FINAL)
    page = write_report(run.root).read_text()
    assert "Not finished" not in page
    assert judge(record)[0].startswith("Final DPO beats the SFT model")
    assert summary_rows(record)[-1][0] == "final DPO (shipped)"
    assert "answered by the SFT model and by final DPO" in page


def test_the_samples_are_those_of_the_round_that_is_shipped(run):
    read(run, SECOND)
    assert "answered by the SFT model and by round 2," in write_report(run.root).read_text()


def test_length_is_named_only_where_the_test_takes_it_out(run):
    for accept, named in (("supported", True), ("supported_any_length", False)):
        run.config["leader"]["accept"] = accept
        assert ("once the length" in judge_shipping(read(run, unsupported(80, 0.3)))[1]) is named


def test_the_choice_is_a_row_of_the_stages_times(run):
    run.write()
    manifest = json.loads((run.root / "manifest.json").read_text())
    manifest["stages"]["shipped.json"] = {"seconds": 0.3}
    (run.root / "manifest.json").write_text(json.dumps(manifest))
    times = stage_times(read_run(run.root))
    (row,) = (cells for name, cells in times.rows if name == "shipped")
    assert row[-1] == "0.30 s"
