"""A run in 16 bits trains weights of 32."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from sgpo.cli import main
from sgpo.store.files import read_yaml


def test_a_run_in_bfloat16_keeps_steps_that_16_bits_cannot_hold(recipe):
    steps = ["rounds=0", "model.dtype=bfloat16", "leader.seed_learning_rate=1e-6", "leader.seed_epochs=1"]
    assert main(["run", "--config", str(recipe), "--quiet", *steps]) == 0
    before = load_file(Path(read_yaml(recipe)["model"]["path"]) / "model.safetensors")
    after = load_file(recipe.parent / "run" / "round-0" / "policy" / "model.safetensors")
    moved = {name: weights != before[name] for name, weights in after.items()}
    lost = {name: weights.bfloat16() == before[name].bfloat16() for name, weights in after.items()}
    assert {weights.dtype for weights in after.values()} == {torch.float32}
    assert all(each.any() for each in moved.values())
    # Rounded to 16 bits, nearly all of the training is gone.
    assert torch.cat([each.ravel() for each in lost.values()]).float().mean() > 0.98
