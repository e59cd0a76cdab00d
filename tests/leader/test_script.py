"""`sgpo train`: what the trainer can do, from the command line."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from leader.batches import ROWS
from sgpo.errors import InputError
from sgpo.leader.script import train
from sgpo.policy.load import load_policy


@pytest.fixture
def command(tmp_path, policy_path):
    def build(*arguments, **columns):
        rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in ROWS]
        for name, values in columns.items():
            rows = [{**row, name: value} for row, value in zip(rows, values, strict=True)]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        line = {
            "model_name_or_path": policy_path, "dataset_name": tmp_path / "pairs.jsonl", "output_dir": tmp_path / "out",
            "use_cpu": True, "bf16": False, "max_steps": 2, "learning_rate": 1e-2, "report_to": "none",
            "dtype": "float32", "dataloader_pin_memory": False, "save_strategy": "no",
        }  # fmt: skip
        return [*(text for name, value in line.items() for text in (f"--{name}", str(value))), *arguments]

    return build


def test_sources_and_weights_come_from_the_file(command, tmp_path, policy_path):
    """Weights of 0 for all but one pair: training is on that pair alone, whatever the others say."""
    sources = ["human", "self"] * 4
    options = ["--source_radius", '{"human": 0, "self": 0.05}', "--schedule", "step"]
    ends = []
    for weights in ([0, 0, 0, 2, 0, 0, 0, 0], [0, 0, 0, 5, 0, 0, 0, 0]):
        train(command(*options, source=sources, weight=weights))
        ends.append(AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict())
    start = AutoModelForCausalLM.from_pretrained(policy_path).state_dict()
    assert any(not torch.equal(start[name], value) for name, value in ends[0].items())
    for name, value in ends[0].items():
        assert torch.equal(ends[1][name], value)


def test_a_lora_run_saves_an_adapter_that_load_policy_merges(command, tmp_path, policy_path):
    train(command("--use_peft", "--lora_r", "4"))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "out" / "ref").exists()
    merged = load_policy(tmp_path / "out").model.state_dict()
    start = load_policy(policy_path).model.state_dict()
    changed = {name for name, value in start.items() if not torch.equal(merged[name], value)}
    assert changed and all("_proj" in name for name in changed)


@pytest.mark.parametrize(
    ("arguments", "columns", "said"),
    [
        (["--loss_type", "ipo", "--radius", "0"], {"weight": [1] * 8}, "loss_type is .* with a 'weight' column"),
        (["--source_radius", '{"self": 0.1}'], {"source": ["web"] * 8}, "row 0: source is 'web'; allowed: 'self'"),
        (["--source_radius", "0.1"], {}, "source_radius is '0.1'; allowed: a mapping"),
        (["--schedule", "never"], {}, "schedule is 'never'"),
        (["--padding_free", "true"], {}, "padding_free is True; allowed: False"),
    ],
)
def test_what_the_trainer_refuses_is_one_message_for_the_user(command, arguments, columns, said):
    with pytest.raises(InputError, match=said):
        train(command(*arguments, **columns))
