"""Small array worlds for tests."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from sgpo_research.worlds.arrays import ArrayWorld, Candidates
from sgpo_research.worlds.loglinear import loglinear_world, settings_of

SMALL = {"quiet": 4, "seeds": 24, "held_out": 30, "pools": (40, 50), "test": 25}


def small_world(regime: str = "benign", seed: int = 0, **changes) -> ArrayWorld:
    return loglinear_world(replace(settings_of(regime), **{**SMALL, **changes}), seed)


def ragged_candidates(seed: int = 0) -> Candidates:
    """Three prompts with 4, 2 and 3 candidates, some of them tied in gold."""
    rng = np.random.default_rng(seed)
    log_ref = np.full((3, 4), -np.inf)
    for prompt, count in enumerate((4, 2, 3)):
        shares = rng.random(count)
        log_ref[prompt, :count] = np.log(shares / shares.sum())
    gold = rng.normal(size=(3, 4))
    gold[0, 1] = gold[0, 0]
    features = rng.normal(size=(3, 4, 5)).astype(np.float32)
    return Candidates(features, log_ref, gold, rng.normal(size=(3, 4)), rng.normal(size=(3, 2)))


def write_preferences(folder: Path, *, prompts: int = 24, responses: int = 9, seed: int = 0) -> Path:
    """A made-up copy of the layout of the real preferences: longer responses are better, up to a point."""
    rng = np.random.default_rng(seed)
    words = ["apple", "river", "stone", "cloud", "green", "quick", "seven", "paper", "light", "house"]
    rows = []
    for prompt in range(prompts):
        for generator in range(responses):
            count = int(rng.integers(1, 40))
            text = " ".join(rng.choice(words, count)) + f" {prompt} {generator}."
            chance = 1 / (1 + np.exp(-(min(count, 25) - 15) / 4 - 0.3 * rng.normal()))
            row = {"prompt": f"Question {prompt} about {words[prompt % 10]}?", "response": text}
            rows.append({**row, "generator": f"model-{generator}", "win_probability": round(float(chance), 5)})
    path = folder / "responses.jsonl.gz"
    path.write_bytes(gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode()))
    return folder
