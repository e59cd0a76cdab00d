import pytest

from sgpo.report.alerts import find_alerts
from sgpo.report.read import read_run


def make_sound(run):
    run.metrics[3]["heldout"]["accuracy"] = 0.64


def collapse(run, end):
    run.metrics[2]["leader"]["chosen_logps"] = end


def faint_collapse(run, start, end):
    for metrics in run.metrics:
        metrics["leader"].update(chosen_logps=end, reference_chosen_logps=start)


def agree(run, share):
    run.metrics[2]["evaluations"]["gold"]["agreement"] = share


def win(run, rate, low, high):
    run.metrics[3]["evaluations"]["gold"].update(value=rate, low=low, high=high)


def lengthen(run, tokens):
    run.metrics[3]["evaluations"]["gold"]["tokens"] = tokens


def lengthen_annotated(run, tokens):
    for metrics in run.metrics:
        metrics["evaluations"]["gold"]["tokens"] = None
    run.metrics[3]["annotation"]["response_tokens"] = tokens


def move(run, share, radius=0.01):
    run.metrics[1]["follower"].update(moved_share=share, radius=radius)


def move_source(run, share):
    run.metrics[1]["follower"] = {"moved_share": 0.02, "by_source": {"self": {"radius": 0.3, "moved_share": share}}}


def turn_down(run, accepted):
    tried = [{"radius": 0.1, "accepted": accepted, "reason": "no information"}]
    run.metrics[1]["decision"] = {"place": None, "radius": 0.1, "accepted": accepted, "pairs": 24, "tried": tried}


def collapse_on_seeds(run, end):
    run.metrics[0]["leader"]["chosen_logps"] = end


FIRES = {
    "collapse on the seeds": (collapse_on_seeds, (-50.0,), "Chosen log-probability collapsed in DPO on seeds"),
    "collapse": (collapse, (-45.1,), "Chosen log-probability collapsed in round 2"),
    "wrong labels": (
        agree,
        (0.499,),
        "Self-annotation is worse than chance in round 2: the reward of gold agrees with 0.499",
    ),
    "clear decline": (win, (0.5, 0.45, 0.55), "round 3, is below round 2 in gold win rate: 0.500 against 0.703."),
    "decline in noise": (win, (0.69, 0.63, 0.75), "0.690 against 0.703; the intervals overlap, so this may be noise."),
    "length": (lengthen, (33.1,), "Responses grew from 22.0 to 33.1 tokens"),
    "length of the annotated": (lengthen_annotated, (33.1,), "Responses grew from 22.0 to 33.1 tokens"),
    "a round turned down": (turn_down, (False,), "Round 1 was not accepted: 24 validation pairs do not show"),
    "idle follower": (move, (0.0009,), "The follower is idle in round 1: it moves 0.0009"),
    "saturated follower": (move, (0.951,), "The follower moves nearly everything in round 1"),
    "idle on a source": (move_source, (0.0009,), "idle in round 1: it moves 0.0009 of the self pairs"),
    "saturated on a source": (move_source, (0.951,), "moves nearly everything in round 1: 0.951 of the self pairs"),
}
SILENT = {
    "chosen fell a little": (collapse, (-44.9,)),
    "chosen rose": (collapse, (-3.0,)),
    "half again of almost nothing": (faint_collapse, (-2.0, -6.0)),
    "labels as good as a coin": (agree, (0.5,)),
    "level": (win, (0.703, 0.647, 0.757)),
    "length below the limit": (lengthen, (33.0,)),
    "follower barely moves": (move, (0.001,)),
    "follower moves much": (move, (0.95,)),
    "a source moves some": (move_source, (0.4,)),
    "a round accepted": (turn_down, (True,)),
    "no radius, nothing moved": (move, (0.0, 0.0)),
}


@pytest.mark.parametrize(("change", "values", "message"), FIRES.values(), ids=FIRES.keys())
def test_an_alert_fires_alone_and_names_its_number(run, change, values, message):
    make_sound(run)
    change(run, *values)
    (alert,) = find_alerts(read_run(run.write()))
    assert message in alert


@pytest.mark.parametrize(("change", "values"), SILENT.values(), ids=SILENT.keys())
def test_sound_numbers_raise_no_alert(run, change, values):
    make_sound(run)
    change(run, *values)
    assert find_alerts(read_run(run.write())) == []


def test_a_held_out_decline_is_an_alert_too(run):
    (alert,) = find_alerts(read_run(run.write()))
    assert "below round 2 in held-out accuracy: 0.629 against 0.633" in alert


def test_a_run_with_nothing_measured_raises_no_alert(run):
    for metrics in run.metrics:
        for block in ("evaluations", "heldout", "annotation", "follower", "leader"):
            metrics.pop(block, None)
    run.metrics = run.metrics[:1]
    assert find_alerts(read_run(run.write())) == []
