"""The tables of results say what they show, for every form that a result may have."""

import io

import numpy as np
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
