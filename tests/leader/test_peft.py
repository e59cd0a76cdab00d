"""LoRA: which reference a round has, what is saved, and what the next round starts from."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from leader.batches import MARGIN, loss_and_gradients, with_stored_scores
from sgpo.errors import InputError
from sgpo.leader.train import build_arguments, train_leader
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_responses

LORA = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
SETTINGS = {
    "learning_rate": 1e-2, "max_steps": 3, "per_device_train_batch_size": 8, "radius": 1.0, "bf16": False,
    "activation_checkpointing": False, **MARGIN,
}  # fmt: skip


@pytest.fixture
def adapter(make_trainer, tmp_path):
    """A first round's adapter on the policy, trained far enough to be told from it."""
    trainer = make_trainer(
        DPOTrainer, DPOConfig, ref_model=None, more={"peft_config": LoraConfig(task_type="CAUSAL_LM", **LORA)},
        learning_rate=3e-2, max_steps=6,
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    return str(tmp_path / "adapter")


def second_round(policy_path, adapter):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(policy_path), adapter, is_trainable=True)


def test_trls_second_round_refers_to_the_first(make_trainer, policy_path, adapter):
    """The trap: a PeftModel's reference is a copy of its own adapter, so every gap starts at 0."""
    trainer = make_trainer(DPOTrainer, DPOConfig, model=second_round(policy_path, adapter), ref_model=None)
    assert "ref" in trainer.model.peft_config
    assert loss_and_gradients(trainer)[0] == pytest.approx(np.log(2), abs=1e-6)


def test_with_stored_scores_the_second_round_refers_to_whom_they_name(
    make_trainer, pairs, policy_path, adapter, tmp_path
):
    base = AutoModelForCausalLM.from_pretrained(policy_path)
    against_base = make_trainer(radius=1.0, ref_model=base, model=second_round(policy_path, adapter), **MARGIN)
    data = with_stored_scores(against_base, pairs, policy=False)
    trainer = make_trainer(radius=1.0, dataset=data, ref_model=None, model=second_round(policy_path, adapter), **MARGIN)
    first, second = loss_and_gradients(against_base), loss_and_gradients(trainer)
    assert abs(first[0] - np.log(2)) > 0.01
    assert second[0] == pytest.approx(first[0], abs=1e-5)

    assert set(trainer.model.peft_config) == {"default"}
    assert not [name for name, _ in trainer.model.named_parameters() if ".ref." in name]
    trainer.train()
    trainer.save_model(str(tmp_path / "second"))
    assert not (tmp_path / "second" / "ref").exists()
    models = [load_policy(tmp_path / "second").model, trainer.model.eval(), load_policy(policy_path).model]
    with torch.no_grad():
        loaded, trained, base = (model(input_ids=torch.arange(40, 80)[None]).logits for model in models)
    torch.testing.assert_close(loaded, trained, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(loaded, base, atol=1e-3)


def test_a_fresh_adapter_refers_to_its_base_and_starts_from_gaps_of_zero(make_trainer):
    config = LoraConfig(task_type="CAUSAL_LM", **LORA)
    trainer = make_trainer(ref_model=None, radius=0.05, more={"peft_config": config})
    trainer.train()
    assert trainer.worst_cases["all"].empirical_value == pytest.approx(np.log(2), abs=1e-12)


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("reference", ["sft", "previous"])
def test_rounds_keep_the_reference_that_their_scores_name(
    make_trainer, pairs, policy_path, tmp_path, peft_config, reference
):
    """Two rounds by train_leader: round 2's first loss is that of its stored reference, and load_policy loads both."""
    previous = policy_path
    for number in (1, 2):
        refer_to = policy_path if reference == "sft" else previous
        data = score(score(pairs, refer_to, "ref_chosen_logps", "ref_rejected_logps"), previous, *POLICY)
        log = train_leader(
            load_policy(previous), data, tmp_path / f"round-{number}",
            build_arguments(SETTINGS, {"logging_steps": 1}, "unused"), peft_config=peft_config,
        )  # fmt: skip
        expected = make_trainer(
            radius=1.0, model=AutoModelForCausalLM.from_pretrained(previous),
            ref_model=AutoModelForCausalLM.from_pretrained(refer_to), **MARGIN,
        )  # fmt: skip
        assert log[0]["loss"] == pytest.approx(loss_and_gradients(expected)[0], abs=1e-4)
        before, after = (load_policy(path).model.state_dict() for path in (previous, tmp_path / f"round-{number}"))
        changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert changed
        if peft_config:
            assert all("q_proj" in name or "v_proj" in name for name in changed)
        assert not list((tmp_path / f"round-{number}").glob("*adapter*"))
        assert not list((tmp_path / f"round-{number}").glob("*.bin"))
        previous = str(tmp_path / f"round-{number}")


POLICY = ("chosen_logps", "rejected_logps")


def score(pairs, path, *columns):
    for column, side in zip(columns, ("chosen", "rejected"), strict=True):
        texts = [row[0]["content"] for row in pairs[side]]
        pairs = pairs.add_column(column, score_responses(load_policy(path), pairs["prompt"][:], texts).logps.tolist())
    return pairs


def test_an_unknown_lora_argument_is_named(pairs, policy_path, tmp_path):
    with pytest.raises(InputError, match=r"leader\.lora: .*rank"):
        train_leader(
            load_policy(policy_path),
            pairs,
            tmp_path / "out",
            build_arguments({"radius": 0.0}, {}, "unused"),
            peft_config={"rank": 4},
        )
