"""Dr. DPO's loss is one of a whole optimiser step: microbatches change neither its value nor its gradient."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from leader.batches import batch_margins, loss_and_gradients, with_stored_scores
from sgpo.leader import SGPOConfig
from sgpo.leader.dr_dpo import dr_dpo_loss, sum_up

BETA = 0.3
DR_DPO = {"radius": 0.0, "dr_dpo_beta": BETA}
TRAINING = {"max_steps": 3, "lr_scheduler_type": "constant", "optim": "sgd", "learning_rate": 0.05}


def soft_minimum(losses, beta=BETA):
    return -beta * torch.log(torch.exp(-losses / beta).mean())


def trained(make_trainer, **options):
    """Losses and gradients' norms of each optimiser step, and the weights at the end."""
    trainer = make_trainer(**{**DR_DPO, **TRAINING, **options})
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    weights = torch.cat([value.flatten() for value in trainer.model.state_dict().values()])
    return [record["loss"] for record in records], [record["grad_norm"] for record in records], weights


def test_the_parts_of_a_step_have_the_whole_steps_value_and_gradient():
    losses = torch.linspace(0.1, 3, 12, dtype=torch.float64, requires_grad=True)
    step = sum_up(Accelerator(cpu=True), losses, BETA)
    parts = [dr_dpo_loss(part, step, BETA, 5) for part in losses.split([1, 4, 3, 2, 2])]
    for part in parts:
        assert part.tolist() == pytest.approx([soft_minimum(losses).item()] * len(part), abs=1e-12)
    (ours,) = torch.autograd.grad(sum(part.mean() for part in parts) / 5, losses)
    (theirs,) = torch.autograd.grad(soft_minimum(losses), losses)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("cut", [(1, 8), (2, 4)], ids=lambda cut: f"{cut[1]}x{cut[0]}")
def test_it_does_not_depend_on_how_a_batch_is_cut(make_trainer, cut):
    whole = trained(make_trainer, per_device_train_batch_size=8)
    parts = trained(make_trainer, per_device_train_batch_size=cut[0], gradient_accumulation_steps=cut[1])
    for first, second in zip(whole, parts, strict=True):
        np.testing.assert_allclose(second, first, atol=1e-5, rtol=1e-4)
    # With one pair in it, a microbatch of its own would be DPO.
    dpo = trained(make_trainer, per_device_train_batch_size=8, dr_dpo_beta=None)
    assert np.abs(np.subtract(whole[0], dpo[0])).min() > 1e-2


def test_the_first_step_goes_down_the_gradient_of_the_formula(make_trainer):
    trainer = make_trainer(**{**DR_DPO, **TRAINING, "max_steps": 1, "max_grad_norm": 1e9})
    margins = batch_margins(trainer)
    expected = soft_minimum(-torch.nn.functional.logsigmoid(margins))
    expected.backward()
    with torch.no_grad():
        ends = {name: value - 0.05 * value.grad for name, value in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), abs=1e-5)
    for name, value in trainer.model.named_parameters():
        torch.testing.assert_close(value.detach(), ends[name].detach(), atol=1e-6, rtol=1e-5)


def test_a_large_beta_is_dpo(make_trainer):
    dr_dpo = trained(make_trainer, dr_dpo_beta=1e6)
    dpo = trained(make_trainer, dr_dpo_beta=None)
    np.testing.assert_allclose(dr_dpo[0], dpo[0], atol=1e-5)
    np.testing.assert_allclose(dr_dpo[2], dpo[2], atol=1e-6)


def test_stored_scores_take_the_place_of_the_reference_model(make_trainer, pairs):
    dataset = with_stored_scores(make_trainer(**DR_DPO), pairs, policy=False)
    with_model = trained(make_trainer, gradient_accumulation_steps=2, per_device_train_batch_size=4)
    stored = trained(
        make_trainer, gradient_accumulation_steps=2, per_device_train_batch_size=4, dataset=dataset, ref_model=None
    )
    np.testing.assert_allclose(stored[0], with_model[0], atol=1e-5)


def test_a_short_last_step_is_averaged_over_its_own_pairs(make_trainer):
    """Eight pairs in steps of 3 x 2: the second step of an epoch has one microbatch."""
    losses, _, _ = trained(
        make_trainer, per_device_train_batch_size=2, gradient_accumulation_steps=3, learning_rate=1e-12
    )
    assert len(losses) == 3
    trainer = make_trainer(**DR_DPO)
    pairs = -torch.nn.functional.logsigmoid(batch_margins(trainer).detach()).double()
    # The order is random: two steps of an epoch add up to the sum over all pairs.
    total = 6 * np.exp(-losses[0] / BETA) + 2 * np.exp(-losses[1] / BETA)
    assert total == pytest.approx(torch.exp(-pairs / BETA).sum().item(), rel=1e-3)


def test_evaluation_is_dpo(make_trainer, pairs):
    trainer = make_trainer(**DR_DPO, **TRAINING, more={"eval_dataset": pairs})
    margins = batch_margins(trainer).detach()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(
        -torch.nn.functional.logsigmoid(margins).mean().item(), abs=1e-5
    )


def test_a_loss_without_its_step_is_refused(make_trainer):
    with pytest.raises(RuntimeError, match="one of a whole optimiser step"):
        loss_and_gradients(make_trainer(**DR_DPO))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dr_dpo_beta": 0.0}, r"dr_dpo_beta is 0\.0; allowed: a number > 0"),
        ({"radius": 0.1}, r"radius is 0\.1 with dr_dpo_beta 0\.3; allowed: radius=0"),
        (
            {"confidence_smoothing": 0.1},
            r"confidence_smoothing is 0\.1 with dr_dpo_beta 0\.3; allowed: confidence_smoothing=0, or no dr_dpo_beta",
        ),
        ({"loss_type": ["hinge"]}, r"loss_type is \['hinge'\] with dr_dpo_beta"),
        ({"disable_dropout": False}, "disable_dropout is False with dr_dpo_beta"),
    ],
)
def test_what_it_does_not_combine_with_is_refused(make_arguments, changes, said):
    with pytest.raises(ValueError, match=said):
        make_arguments(SGPOConfig, **{**DR_DPO, **changes})


def test_weights_are_refused(make_trainer, pairs):
    with pytest.raises(ValueError, match=r"dr_dpo_beta is 0\.3 with a 'weight' column; allowed: no dr_dpo_beta"):
        make_trainer(dataset=pairs.add_column("weight", [1.0] * 8), **DR_DPO)
