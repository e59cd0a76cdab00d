"""What a leader run leaves on disk."""

import warnings

import pytest
from datasets import Dataset

from sgpo.errors import InputError
from sgpo.leader.train import build_arguments, train_leader
from sgpo.leader.trainer import SGPOTrainer
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_responses


def conversation(role, text):
    return [{"role": role, "content": text}]


PAIRS = {
    "prompt": [conversation("user", "Who?")] * 2,
    "chosen": [conversation("assistant", "The cat."), conversation("assistant", "A cat.")],
    "rejected": [conversation("assistant", "Nobody."), conversation("assistant", "No.")],
    "ref_chosen_logps": [-10.0, -9.0],
    "ref_rejected_logps": [-8.0, -7.0],
}


SETTINGS = {"radius": 0.0, "max_steps": 3, "max_length": 64, "per_device_train_batch_size": 2}


def test_a_sharded_trainer_that_gathered_no_weights_is_refused(tmp_path, policy_path, monkeypatch):
    """The next round would find a folder without a model."""
    monkeypatch.setattr(SGPOTrainer, "save_model", lambda self, output: (tmp_path / "policy").mkdir())
    arguments = build_arguments({**SETTINGS, "max_steps": 1, "guards": False}, {}, "unused")
    with pytest.raises(InputError, match=r"holds no weights after training; allowed: FSDP with .* FULL_STATE_DICT"):
        train_leader(load_policy(policy_path), Dataset.from_dict(PAIRS), tmp_path / "policy", arguments)


def test_decoupling_takes_the_reference_beside_its_stored_scores(tmp_path, policy_path, reference_path):
    policy, reference = load_policy(policy_path), load_policy(reference_path)
    scores = {
        f"ref_{side}_logps": score_responses(
            reference, PAIRS["prompt"], [row[0]["content"] for row in PAIRS[side]]
        ).logps
        for side in ("chosen", "rejected")
    }
    pairs = Dataset.from_dict({**PAIRS, **scores})
    extra = {"confidence_smoothing": 0.1, "confidence_quantile": 0.5, "confidence_warmup": 0.0, "decoupling": 1.5}
    arguments = build_arguments(SETTINGS, extra, "unused")
    with pytest.raises(InputError, match=r"decoupling is 1\.5 with stored .* allowed: 1, or a ref_model"):
        train_leader(policy, pairs, tmp_path / "policy", arguments)
    log = train_leader(policy, pairs, tmp_path / "policy", arguments, reference=reference)
    assert sum("confidence/threshold" in record for record in log) == 2


def test_trls_deprecations_are_not_shown(tmp_path, policy_path):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        arguments = build_arguments(SETTINGS, {}, "unused")
        train_leader(load_policy(policy_path), Dataset.from_dict(PAIRS), tmp_path / "policy", arguments)
    assert [str(warning.message) for warning in shown if "gradient_checkpointing" in str(warning.message)] == []
