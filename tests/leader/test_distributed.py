"""Two processes of four pairs train as one of eight, and as eight microbatches of one."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from leader.batches import ROWS, make_pairs

STEPS = ("envelope", "transport", "mixture")
SCHEDULES = ("round", "epoch", "step")
CUTS = {
    "1x8": (1, {"per_device_train_batch_size": 8}),
    "8x1": (1, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}),
    "2x4": (2, {"per_device_train_batch_size": 4}),
}


OPTIONS = {
    "source_radius": {"human": 0, "self": 2.0}, "space": "margin", "tangents": 0, "window": [-20.0, 20.0],
    "max_steps": 6, "learning_rate": 0.02,
}  # fmt: skip
SPA = {
    "radius": 0.0, "confidence_smoothing": 0.3, "confidence_quantile": 0.6, "confidence_warmup": 0.2,
    "confidence_pairs": 16, "max_steps": 6, "learning_rate": 0.02,
}  # fmt: skip
NOISE = {
    "confidence": SPA,
    "decoupled": {**SPA, "decoupling": 2.0},
    "dr_dpo": {"radius": 0.0, "dr_dpo_beta": 0.3, "dataset": "plain", "max_steps": 6, "learning_rate": 0.02},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory, policy_path, reference_path):
    """Folder, models and pairs: sixteen, weighted, of two sources."""
    folder = tmp_path_factory.mktemp("ranks")
    pairs = make_pairs([*ROWS, *[(f"{prompt} Please.", rejected, chosen) for prompt, chosen, rejected in ROWS]])
    pairs = pairs.add_column("weight", [1.0, 2.0, 0.5, 3.0] * 4)
    pairs.remove_columns("weight").save_to_disk(folder / "plain")
    pairs.add_column("source", ["self", "self", "human"] * 5 + ["self"]).save_to_disk(folder / "pairs")
    return {"folder": str(folder), "policy": policy_path, "reference": reference_path}


@pytest.fixture(scope="module")
def ends(settings):
    """Losses, prices and final weights of every step and schedule, by how the batch is cut."""
    results = {}
    for cut, (ranks, batch) in CUTS.items():
        runs = {
            f"{step} {schedule}": {**OPTIONS, "step": step, "schedule": schedule, **batch}
            for step, schedule in itertools.product(STEPS, SCHEDULES)
        }
        runs |= {name: {**options, **batch} for name, options in NOISE.items()}
        done = launch(ranks, {**settings, "name": cut, "runs": runs})
        assert done.returncode == 0, done.stderr[-4000:]
        result = json.loads((Path(settings["folder"]) / f"{cut}.json").read_text())
        assert result["ranks"] == ranks
        results[cut] = result["ends"]
    return results


def launch(ranks, settings):
    script = Path(__file__).parent / "run_ranks.py"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(ranks)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    # With --cpu accelerate starts a second process through MPI alone; its launcher for many GPUs starts them by torch,
    # and the trainer's use_cpu puts them on gloo.
    command += ["--multi_gpu", "--main_process_port", "0"] if ranks > 1 else ["--cpu"]
    paths = [str(script.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command += [str(script), json.dumps(settings)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("step", STEPS)
def test_losses_prices_and_weights_do_not_depend_on_how_a_batch_is_cut(ends, step, schedule):
    whole = ends["1x8"][f"{step} {schedule}"]
    assert len(whole["losses"]) == 6
    assert schedule == "round" or len(set(whole["prices"])) > 1
    for cut in ("8x1", "2x4"):
        other = ends[cut][f"{step} {schedule}"]
        for part in ("losses", "prices", "weights"):
            np.testing.assert_allclose(other[part], whole[part], atol=1e-5, err_msg=f"{cut} {part}")


@pytest.mark.slow
@pytest.mark.parametrize("name", NOISE)
def test_thresholds_and_soft_minima_are_those_of_all_processes(ends, name):
    whole = ends["1x8"][name]
    assert len(whole["losses"]) == 6
    assert name == "dr_dpo" or (len(whole["thresholds"]) == 5 and len(set(whole["thresholds"])) > 2)
    for cut in ("8x1", "2x4"):
        for part in ("losses", "thresholds", "weights"):
            np.testing.assert_allclose(ends[cut][name][part], whole[part], atol=1e-5, err_msg=f"{cut} {part}")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_stops_both_and_names_its_rows(settings):
    runs = {"poisoned": {**OPTIONS, "per_device_train_batch_size": 4}}
    done = launch(2, {**settings, "name": "poisoned", "runs": runs, "poisoned_row": 5})
    assert done.returncode != 0
    named = re.findall(r"InputError: step [12]: the loss is nan on rows \[([\d, ]+)\] of train_dataset", done.stderr)
    assert len(named) >= 2 and len(set(named)) == 1
    rows = [int(row) for row in named[0].split(", ")]
    assert 5 in rows and len(rows) == 4
