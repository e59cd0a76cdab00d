"""De-coupled margins are those of a full computation, need a reference model, and use little memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM

from leader.batches import loss_and_gradients, whole_batch, with_stored_scores
from sgpo.errors import InputError
from sgpo.leader import decoupling
from sgpo.leader.decoupling import mixed_logps

DECOUPLED = {
    "radius": 0.0, "confidence_smoothing": 0.3, "confidence_quantile": 0.5, "confidence_warmup": 0.0, "decoupling": 3.0,
}  # fmt: skip


def full_margins(trainer, reference, strength):
    """From whole logits of both models, as nobody computes them in training."""
    inputs = whole_batch(trainer)
    tokens, mask = inputs["input_ids"][:, 1:, None], inputs["completion_mask"][:, 1:]

    def logits(model):
        with torch.no_grad():
            return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]

    def scores(values):
        return (torch.log_softmax(values, -1).gather(-1, tokens).squeeze(-1) * mask).sum(1)

    policy = logits(trainer.model)
    base = logits(reference)
    gains = scores(strength * policy + (1 - strength) * base) - scores(base)
    chosen, rejected = gains.chunk(2)
    return trainer.beta * (chosen - rejected)


def judged(trainer):
    """The margins that the confidence is shown for the whole dataset."""
    seen = []
    trainer.pair_loss.seen.add = lambda rows, margins: seen.append(margins)
    loss_and_gradients(trainer)
    return seen[0]


def test_decoupled_margins_are_those_of_mixed_logits(make_trainer):
    trainer = make_trainer(**DECOUPLED)
    expected = full_margins(trainer, trainer.ref_model, 3.0)
    plain = full_margins(trainer, trainer.ref_model, 1.0)
    torch.testing.assert_close(judged(trainer), expected, atol=1e-5, rtol=1e-4)
    assert (expected.sign() != plain.sign()).any() or not torch.allclose(expected, 3 * plain, rtol=0.05)


def test_they_judge_and_the_policys_own_margins_are_trained(make_trainer):
    trainer = make_trainer(**DECOUPLED)
    margins = full_margins(trainer, trainer.ref_model, 1.0).double().numpy()
    doubts = full_margins(trainer, trainer.ref_model, 3.0)
    trainer.pair_loss.threshold = float(doubts.sort().values[2]) + 1e-4
    doubted = doubts.numpy() <= trainer.pair_loss.threshold
    assert set(np.flatnonzero(doubted)) != set(np.argsort(margins)[:3])
    loss, _ = loss_and_gradients(trainer)
    assert loss == pytest.approx(np.mean(np.log1p(np.exp(-margins)) + 0.3 * doubted * margins), abs=1e-5)


def test_with_lora_the_reference_is_the_model_without_the_adapter(make_trainer, policy_path):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    trainer = make_trainer(ref_model=None, more={"peft_config": lora}, **DECOUPLED)
    expected = full_margins(trainer, AutoModelForCausalLM.from_pretrained(policy_path), 3.0)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(judged(trainer), expected, atol=1e-5, rtol=1e-4)


def test_stored_scores_go_with_a_reference_model(make_trainer, pairs, reference_path):
    plain = make_trainer(**DECOUPLED)
    dataset = with_stored_scores(plain, pairs, policy=False)
    torch.testing.assert_close(judged(make_trainer(dataset=dataset, **DECOUPLED)), judged(plain), atol=1e-4, rtol=1e-4)


def test_another_reference_model_than_the_scores_came_from_is_refused(make_trainer, pairs, policy_path):
    dataset = with_stored_scores(make_trainer(**DECOUPLED), pairs, policy=False)
    other = AutoModelForCausalLM.from_pretrained(policy_path)
    trainer = make_trainer(dataset=dataset, ref_model=other, **DECOUPLED)
    with pytest.raises(InputError, match=r"reference's hidden states and head differ by .* the ref_model that stored"):
        loss_and_gradients(trainer)


def test_logits_that_are_not_the_heads_are_refused(make_trainer):
    """As in models that scale their logits, which TRL's fused head does and the plain head does not."""
    trainer = make_trainer(**DECOUPLED)
    head = trainer.model.get_output_embeddings()
    scaled = nn.Linear(head.in_features, head.out_features, bias=False)
    scaled.weight = nn.Parameter(head.weight.detach() * 1.5)
    trainer.pair_loss.decoupling.policy = SimpleNamespace(
        base_model=trainer.model.base_model, get_output_embeddings=lambda: scaled
    )
    with pytest.raises(InputError, match="policy's hidden states and head differ by"):
        loss_and_gradients(trainer)


def test_only_a_slice_of_the_logits_exists_at_a_time(monkeypatch):
    monkeypatch.setattr(decoupling, "MAX_LOGITS", 100)
    generator = torch.Generator().manual_seed(0)
    policy, reference = nn.Linear(4, 11), nn.Linear(6, 11)
    states = torch.randn(50, 4, generator=generator), torch.randn(50, 6, generator=generator)
    labels = torch.randint(11, (50,), generator=generator)
    sizes = []
    policy.register_forward_hook(lambda module, arguments, output: sizes.append(output.numel()))
    ours = mixed_logps((states[0], policy), (states[1], reference), labels, 1.7)
    assert max(sizes) <= 100 and sum(sizes) == 50 * 11
    logits = 1.7 * policy(states[0]) - 0.7 * reference(states[1])
    torch.testing.assert_close(ours, torch.log_softmax(logits, -1).gather(1, labels[:, None]).squeeze(1))


def test_stored_scores_alone_have_no_logits(make_trainer, pairs):
    dataset = with_stored_scores(make_trainer(**DECOUPLED), pairs)
    with pytest.raises(
        InputError, match=r"decoupling is 3\.0 with stored or precomputed .* allowed: 1, or a ref_model"
    ):
        make_trainer(dataset=dataset, ref_model=None, **DECOUPLED)


def test_an_adapter_that_trains_the_head_is_refused(make_trainer):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(InputError, match="adapter that trains the head"):
        make_trainer(ref_model=None, more={"peft_config": lora}, **DECOUPLED)
