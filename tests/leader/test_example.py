"""The twenty-line example is a TRL script but for two names."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from leader.batches import ROWS
from sgpo.policy.load import load_policy

SCRIPT = Path(__file__).parents[2] / "examples" / "robust_dpo.py"
NAMES = (
    "from sgpo.leader import SGPOConfig as DPOConfig\nfrom sgpo.leader import SGPOTrainer as DPOTrainer\n",
    "from trl import DPOConfig, DPOTrainer\n",
)


@pytest.mark.parametrize("names", NAMES, ids=["sgpo", "trl"])
def test_the_example_trains_with_either_pair_of_names(tmp_path, monkeypatch, policy_path, names):
    source = SCRIPT.read_text()
    assert NAMES[0] in source and len(source.splitlines()) <= 20
    script = tmp_path / "script.py"
    script.write_text(source.replace(NAMES[0], names))
    keys = ("prompt", "chosen", "rejected")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in ROWS))
    monkeypatch.setattr(sys, "argv", [str(script), policy_path, str(tmp_path / "pairs.jsonl"), str(tmp_path / "out")])
    monkeypatch.chdir(tmp_path)
    trainer = runpy.run_path(str(script), run_name="__main__")["trainer"]
    assert trainer.state.global_step == 3
    assert hasattr(trainer, "worst_cases") == (names == NAMES[0])
    assert load_policy(tmp_path / "out").context == 256


def test_without_its_arguments_the_example_explains_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert (ended.value.code, "required: PATH" in capsys.readouterr().err) == (2, True)
