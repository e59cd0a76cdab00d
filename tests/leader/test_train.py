"""What a leader run leaves on disk."""

import pytest
from datasets import Dataset

from sgpo.errors import InputError
from sgpo.leader.train import train_leader
from sgpo.leader.trainer import SGPOTrainer
from sgpo.policy.load import load_policy


def conversation(role, text):
    return [{"role": role, "content": text}]


PAIRS = {
    "prompt": [conversation("user", "Who?")] * 2,
    "chosen": [conversation("assistant", "The cat."), conversation("assistant", "A cat.")],
    "rejected": [conversation("assistant", "Nobody."), conversation("assistant", "No.")],
    "ref_chosen_logps": [-10.0, -9.0],
    "ref_rejected_logps": [-8.0, -7.0],
}


def test_a_sharded_trainer_that_gathered_no_weights_is_refused(tmp_path, policy_path, monkeypatch):
    """The next round would find a folder without a model."""
    monkeypatch.setattr(SGPOTrainer, "save_model", lambda self, output: (tmp_path / "policy").mkdir())
    settings = {"radius": 0.0, "max_steps": 1, "guards": False, "max_length": 64, "per_device_train_batch_size": 2}
    with pytest.raises(InputError, match=r"holds no weights after training; allowed: FSDP with .* FULL_STATE_DICT"):
        train_leader(
            load_policy(policy_path), Dataset.from_dict(PAIRS), tmp_path / "policy", settings=settings, extra={}
        )
