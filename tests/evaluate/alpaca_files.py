"""Annotation files in alpaca_eval's layout, simulated: judges that like long answers, ties, soft preferences."""

import json
from pathlib import Path

import numpy as np

# Strength of the policy, the judge's preference for length, relative length of the policy's answers, kind of judge.
CASES = {
    "weak_short_soft": (-1.6, 0.9, 0.75, "soft"),
    "weak_long_soft": (-1.2, 1.4, 1.8, "soft"),
    "even_long_soft": (0.0, 1.2, 1.5, "soft"),
    "even_same_hard": (0.0, 0.6, 1.0, "hard"),
    "strong_long_hard": (1.1, 1.0, 1.4, "hard"),
    "strong_short_ties": (0.7, 0.8, 0.8, "ties"),
    "hopeless_soft": (-3.5, 0.7, 0.9, "soft"),
    "dominant_nulls": (2.2, 0.5, 1.2, "nulls"),
    "no_length_effect": (-0.4, 0.0, 1.6, "soft"),
}


def annotation_rows(case: str, count: int = 805, seed: int = 0) -> list[dict]:
    """Rows of an annotations.json; the text of an answer is filler, of which alpaca_eval uses the length alone."""
    strength, taste, stretch, judge = CASES[case]
    rng = np.random.default_rng([seed, list(CASES).index(case)])
    difficulty = rng.normal(size=count)
    baseline = np.exp(rng.normal(7.3, 0.6, size=count)).astype(int) + 20
    policy = (baseline**0.5 * np.exp(rng.normal(3.65 + np.log(stretch), 0.5, size=count))).astype(int) + 5
    delta = policy - baseline
    logit = strength + 0.8 * difficulty + taste * np.tanh(delta / delta.std()) + rng.normal(0, 1.2, size=count)
    share = 1 / (1 + np.exp(-2.5 * logit))
    if judge != "soft":
        share = (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(float)
    preference = 1 + share
    if judge == "ties":
        preference[rng.random(count) < 0.2] = 1.5
    values = [float(value) for value in preference]
    if judge == "nulls":
        values = [None if rng.random() < 0.05 else value for value in values]
    return [
        {
            "instruction": f"Instruction {row}: say something that fits into {baseline[row]} characters.",
            "output_1": "b" * int(baseline[row]),
            "generator_1": "baseline",
            "dataset": "stand_in",
            "output_2": "é" * int(policy[row]),
            "generator_2": "policy",
            "annotator": "simulated_judge",
            "preference": values[row],
        }
        for row in range(count)
    ]


def gamed_rows(count: int = 805, seed: int = 5) -> list[dict]:
    """Rows of a df_gamed.csv: two baselines with instructions about length, and the difficulty of each instruction."""
    rng = np.random.default_rng(seed)
    difficulty = 0.7 * rng.normal(size=count)
    rows = []
    for name, shift in (("baseline_concise", 0.9), ("baseline_verbose", -0.8)):
        length = shift + 0.7 * rng.normal(size=count)
        share = 1 / (1 + np.exp(1.1 * np.tanh(length) + 0.4 * rng.normal(size=count)))
        rows += [
            {
                "index": row,
                "preference": float(share[row]),
                "model": name,
                "std_delta_len": float(length[row]),
                "instruction_difficulty": float(difficulty[row]),
                "not_gamed_baseline": False,
            }
            for row in range(count)
        ]
    return rows


def write_gamed(path: Path, **options) -> Path:
    rows = gamed_rows(**options)
    lines = [",".join(rows[0])] + [",".join(str(value) for value in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_annotations(path: Path, rows: list[dict]) -> Path:
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return path
