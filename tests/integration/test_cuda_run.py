"""A whole run on a CUDA device."""

import json

import pytest
import torch

from sgpo.cli import main


@pytest.mark.cuda
@pytest.mark.slow
def test_a_run_uses_the_device_and_ends(recipe):
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert main(["run", "--config", str(recipe), "--quiet", "rounds=1"]) == 0
    assert torch.cuda.max_memory_allocated() > before + 2**20
    metrics = json.loads((recipe.parent / "run/round-1/metrics.json").read_text())
    assert 0 <= metrics["heldout"]["accuracy"] <= 1
    assert (recipe.parent / "run/report.html").is_file()
