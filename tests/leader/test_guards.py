"""Alerts are said once; a number that is not finite never reaches the weights."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from leader.batches import MARGIN
from sgpo.errors import InputError
from sgpo.leader.guards import Guards, LeaderAlert

TRAINING = {"radius": 2.0, "max_steps": 4, "per_device_train_batch_size": 4, **MARGIN}


def alerts(shares, chosen, reference=-20.0):
    """The messages of a guard that sees a log of chosen log-probabilities and the follower's moved shares."""
    worst_cases = {source: SimpleNamespace(moved_share=share) for source, share in shares.items()}
    guards, state = Guards(lambda: worst_cases), SimpleNamespace(is_world_process_zero=True, global_step=0)
    guards.on_train_begin(None, state, None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step, value in enumerate(chosen):
            state.global_step = step
            logs = {"logps/chosen": value, "rewards/chosen": 0.1 * (value - reference)}
            guards.on_log(SimpleNamespace(beta=0.1), state, None, logs=logs)
    assert all(warning.category is LeaderAlert for warning in said)
    return [str(warning.message) for warning in said]


def test_a_collapse_of_the_chosen_log_probability_is_said_once():
    said = alerts({"all": 0.1}, [-20.0, -25.0, -31.0, -40.0, -80.0])
    assert len(said) == 1
    assert said[0].startswith("step 2: the mean log-probability of the chosen responses fell to -31.0 nats, from -20.0")


@pytest.mark.parametrize(("chosen", "reference"), [(-29.0, -20.0), (-7.0, -4.0), (-20.0, -30.0)])
def test_small_falls_and_rises_are_no_collapse(chosen, reference):
    assert alerts({"all": 0.1}, [chosen], reference) == []


def test_a_batch_of_long_responses_is_no_collapse():
    assert alerts({"all": 0.1}, [-20.0]) == alerts({"all": 0.1}, [-400.0], reference=-390.0) == []


@pytest.mark.parametrize(("share", "word"), [(0.0, "nearly plain DPO"), (1.0, "little of the data is left")])
def test_an_idle_and_a_saturated_follower_are_said_once(share, word):
    said = alerts({"all": share}, [-20.0] * 3)
    assert len(said) == 1 and word in said[0]


def test_each_source_has_an_alert_of_its_own():
    said = alerts({"human": 0.0, "self": 0.99}, [-20.0] * 2)
    assert len(said) == 2
    assert "source 'human'" in said[0] and "source 'self'" in said[1]


def test_a_saturated_follower_is_seen_in_training(make_trainer):
    with pytest.warns(LeaderAlert, match=r"moves a share of 1\.000"):
        make_trainer(**{**TRAINING, "radius": 1000.0}).train()


def test_guards_can_be_switched_off(make_trainer):
    make_trainer(**{**TRAINING, "radius": 1000.0, "guards": False}).train()


def poison(trainer, row, value):
    """Makes the gap of one row, and with it the loss of its batch, not finite."""
    losses = trainer.pair_loss.losses

    def poisoned(batch):
        return losses(batch._replace(margins=batch.margins * torch.where(batch.tags.row == row, value, 1.0)))

    trainer.pair_loss.losses = poisoned


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_stops_training_and_names_its_rows(make_trainer, tmp_path, accumulation):
    trainer = make_trainer(
        **{**TRAINING, "per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulation},
        save_strategy="steps",
        save_steps=1,
    )
    # The poisoned row is in the last microbatch of the first epoch: the steps before it are good.
    order = sampler_order(trainer)
    poison(trainer, order[-1], float("nan"))
    with pytest.raises(InputError, match="the loss is nan on rows") as stopped:
        trainer.train()
    good = trainer.state.global_step
    assert good == (3 if accumulation == 1 else 1)
    assert str(sorted(order[-2:])) in str(stopped.value)
    assert f"the last good checkpoint is {tmp_path / 'out' / f'checkpoint-{good}'}" in str(stopped.value)
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


def sampler_order(trainer):
    """Rows in the order in which training will see them."""
    return [row for batch in trainer.get_train_dataloader() for row in batch["sgpo_row"].tolist()]


def test_plain_dpo_is_guarded_too(make_trainer):
    trainer = make_trainer(**{**TRAINING, "radius": 0.0})
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(float("inf"))
    with pytest.raises(InputError, match=r"step 1: the loss is nan on rows .* no checkpoint was saved before it"):
        trainer.train()


def test_a_gradient_that_is_not_finite_is_not_applied(make_trainer):
    trainer = make_trainer(**TRAINING)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(InputError, match=r"step 1: the gradient's norm is (nan|inf) on rows \[\d"):
        trainer.train()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_without_guards_training_goes_on(make_trainer):
    trainer = make_trainer(**TRAINING, guards=False)
    trainer.model.lm_head.weight.register_hook(lambda gradient: gradient * float("nan"))
    trainer.train()
    assert trainer.state.global_step == 4
