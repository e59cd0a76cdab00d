"""The tables of results say what they show, for every form that a result may have."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from sgpo.evaluate.results import as_plain, result_table
from sgpo.stats.certificate import certify_policy
from sgpo.stats.ranking import report_preferences


def shown(result):
    console = Console(file=io.StringIO(), width=300)
    console.print(result_table(as_plain(result)))
    return " ".join(console.file.getvalue().split())


def test_the_table_of_preferences_names_ranges_and_units():
    gaps, lengths = np.tile([0.5, -0.2, 1.0, -0.9, 0.4], 8), np.tile([-5, -4, 1, 1, 1, 7, 7, 7], 5)
    result = {"kind": "preferences", "policy": "p", "certificate": certify_policy(gaps, gaps[:4])}
    table = shown({**result, "preferences": report_preferences(gaps, length_differences=lengths)})
    assert "chosen minus rejected: -5 to -4 tokens" in table
    assert "chosen minus rejected: 1 token " in table and "chosen minus rejected: 7 tokens" in table
    report, bound = report_preferences(gaps), result["certificate"]
    scale = report.calibration.temperature
    interval = f"{scale.low:.3f} to {scale.high:.3f}"
    assert f"scale of the gaps {scale.scale:.3f} (95% interval {interval}; 1 is calibrated)." in table
    assert f"measured: {bound.human:.4f} on these pairs, {bound.own:.4f} on the self-annotated pairs." in table


ODD = "[/x] [red]:boom: [link=y]\\"
INTERVAL = {"mean": 1.0, "low": 0.5, "high": 1.5}
RATE = {"win_rate": 0.5, "low": 0.4, "high": 0.6}
TURN = {**INTERVAL, "judgments": 2, "failed": 0}
SIDES = {"policy": ODD, "baseline": ODD, "failed": {ODD: [0, 1]}, "prompts": 9, **RATE}
COUNTS = dict.fromkeys(("wins", "ties", "losses", "identical", "inconsistent", "verdicts", "judged"), 1)
ACCURACY = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "pairs": 9}
# Every name, reason and key of a result that a file, a server or a user's function decides, in each kind.
ODD_RESULTS = [
    {
        "kind": "alpaca", "generator": ODD, "baseline": ODD, "annotator": ODD, "length_controlled": {"minimal": None},
        "raw": {"win_rate": 50.0, "standard_error": 9.0, **dict.fromkeys(("wins", "draws", "losses", "unjudged"), 1)},
        "characters": 9.0, "baseline_characters": 9.0,
    },
    {
        "kind": "mt_bench", "model": ODD, "judge": ODD, "by_turn": {"1": TURN}, "by_category": {ODD: TURN},
        "by_category_and_turn": {f"{ODD}/1": TURN}, "overall": TURN,
    },
    {
        "kind": "mt_bench_pairs", "baseline": ODD, "judge": ODD,
        "models": {ODD: {**RATE, "wins": 1, "ties": 1, "losses": 1, "failed": 1, "win_rate_adjusted": 0.5}},
    },
    {"kind": "judge", "judge": ODD, **SIDES, **COUNTS, "front_low": 0.4, "front_high": 0.6, "front_share": 0.5},
    {
        "kind": "reward", **SIDES, "reward": INTERVAL, "baseline_reward": INTERVAL, "parts": {ODD: [1.0, 2.0]},
        "unrewarded": 0, "counts": {ODD: 2}, "tokens": 1.0, "kl": None, "agreement": None,
    },
    {
        "kind": "preferences", "policy": ODD, "certificate": None,
        "preferences": {
            "overall": ACCURACY, "by_source": {ODD: ACCURACY}, "by_length": [],
            "calibration": {"error": 0.1, "temperature": {"scale": 1.0, "low": 0.9, "high": 1.1}},
        },
    },
]  # fmt: skip


@pytest.mark.parametrize("result", ODD_RESULTS, ids=[result["kind"] for result in ODD_RESULTS])
def test_nothing_of_a_file_or_a_server_is_markup(result):
    assert shown(result).count(ODD) == json.dumps(result).count(json.dumps(ODD))


def test_the_caption_is_as_wide_as_the_terminal_and_not_as_the_table():
    """A table narrower than its caption does not wrap it."""
    console = Console(file=io.StringIO(), width=200)
    console.print(result_table(next(one for one in ODD_RESULTS if one["kind"] == "reward")))
    assert f"left out of all other numbers: 2 {ODD} (rows 0, 1)." in console.file.getvalue()
