"""Compares raw and length-controlled win rates with alpaca_eval's own code, on the same annotation files.

    python benchmarks/alpaca_eval_agreement.py                            # nine simulated judges, five seeds each
    python benchmarks/alpaca_eval_agreement.py annotations.json... --gamed df_gamed.csv        # your own files
    python benchmarks/alpaca_eval_agreement.py --write tests/evaluate/alpaca_eval_values.json  # what the tests expect

alpaca_eval is not a dependency of sgpo. Install it into its own environment, with sgpo's sources on the path and the
libraries that reading these files needs:

    python -m venv peer
    peer/bin/pip install -c constraints.txt alpaca_eval "setuptools<80" scikit-learn datasets transformers jinja2
    PYTHONPATH=src peer/bin/python benchmarks/alpaca_eval_agreement.py

alpaca_eval downloads its difficulty file from the Hub; here it reads the file given, or a simulated one. A file that
either program refuses is named and left out. The last line is the largest difference in points; the program fails if
a number differs by more than 1e-6, or if no file could be compared.
"""

import argparse
import json
import logging
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from alpaca_eval.metrics import glm_winrate

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from evaluate.alpaca_files import CASES, annotation_rows, write_annotations, write_gamed
from sgpo.evaluate.alpaca import read_annotations
from sgpo.evaluate.gamed import read_gamed
from sgpo.evaluate.length_control import length_controlled_win_rate, raw_win_rate

MODELS = {"minimal": "length_controlled_minimal", "full": "length_controlled_v1"}
# One of each kind, and files whose selected penalty depends on liblinear's tolerance.
STORED = [*((case, 0) for case in CASES), ("weak_long_soft", 13), ("weak_short_soft", 1)]


def ask_peer(annotations: Path, model: str) -> dict[str, float]:
    """alpaca_eval's numbers for a file."""
    metrics = glm_winrate.get_length_controlled_winrate(
        pd.read_json(annotations), glm_name=MODELS[model], save_weights_dir=None, is_warn_extreme_changes=False
    )
    return {name: float(value) for name, value in metrics.items()}


def ask_sgpo(annotations: Path, gamed: Path, model: str) -> dict[str, float]:
    """Ours, under alpaca_eval's names."""
    read = read_annotations(annotations)
    raw = raw_win_rate(read.preferences)
    options = {}
    if model == "full":
        # alpaca_eval finds an instruction's difficulty by row number, even if rows are missing.
        options = {"gamed": read_gamed(gamed), "places": np.arange(len(read.outputs))}
    controlled = length_controlled_win_rate(read.preferences, read.lengths, read.baseline_lengths, **options)
    return {
        "win_rate": raw.win_rate,
        "standard_error": raw.standard_error,
        "n_wins": raw.wins,
        "n_wins_base": raw.losses,
        "n_draws": raw.draws,
        "n_total": raw.wins + raw.losses + raw.draws,
        "discrete_win_rate": raw.discrete_win_rate,
        "length_controlled_winrate": controlled.win_rate,
        "lc_standard_error": controlled.spread,
    }


def compare(annotations: Path, gamed: Path, name: str) -> float | None:
    """Prints one line a model; the largest difference of any number, or None if a program refuses the file."""
    largest = 0.0
    for model in MODELS:
        try:
            own, peer = ask_sgpo(annotations, gamed, model), ask_peer(annotations, model)
        # Whatever either program raises: a folder of results holds files of every age and kind.
        except Exception as error:
            print(f"{name:32} {model:8} left out: {type(error).__name__}: {error}")
            return None
        difference = max(abs(peer[key] - own[key]) for key in own)
        largest = max(largest, difference)
        print(
            f"{name:32} {model:8} raw {peer['win_rate']:7.3f}  LC alpaca_eval {peer['length_controlled_winrate']:9.5f}"
            f"  sgpo {own['length_controlled_winrate']:9.5f}  largest difference of all numbers {difference:.1e}"
        )
    return largest


def store(target: Path, folder: Path) -> None:
    """Writes the peer's numbers for the files that the tests generate."""
    values = {}
    for case, seed in STORED:
        file = write_annotations(folder / "annotations.json", annotation_rows(case, seed=seed))
        values[f"{case}/{seed}"] = {model: ask_peer(file, model) for model in MODELS}
    made_with = {package: version(package) for package in ("alpaca_eval", "scikit-learn", "numpy", "pandas")}
    target.write_text(json.dumps({"made_with": made_with, "values": values}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", nargs="*", type=Path, help="annotations.json files; none: simulated ones")
    parser.add_argument("--gamed", type=Path, help="df_gamed.csv; none: a simulated one")
    parser.add_argument("--seeds", type=int, default=5, help="simulated files of each kind")
    parser.add_argument("--write", type=Path, help="store the peer's numbers for the tests and stop")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        gamed = options.gamed or write_gamed(folder / "df_gamed.csv")
        glm_winrate.hf_hub_download = lambda **_: str(gamed)
        if options.write:
            store(options.write, folder)
            return
        differences = [compare(file, gamed, str(file)) for file in options.annotations]
        if not options.annotations:
            for case in CASES:
                for seed in range(options.seeds):
                    file = write_annotations(folder / "annotations.json", annotation_rows(case, seed=seed))
                    differences.append(compare(file, gamed, f"{case}/{seed}"))
    compared = [difference for difference in differences if difference is not None]
    if not compared:
        sys.exit("no file could be compared")
    left_out = len(differences) - len(compared)
    print(f"largest difference over {len(compared)} files ({left_out} left out): {max(compared):.2e} points")
    if max(compared) > 1e-6:
        sys.exit("alpaca_eval and sgpo differ by more than 1e-6 points")


if __name__ == "__main__":
    main()
