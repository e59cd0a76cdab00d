"""When the follower answers, to which gaps, and that nothing depends on how a batch is cut."""

import itertools

import numpy as np
import pytest
import torch

from leader.batches import (
    MARGIN,
    PROBABILITY,
    assert_same_gradients,
    batch_margins,
    loss_and_gradients,
    with_stored_scores,
)
from sgpo.errors import InputError
from sgpo.leader.follower import Follower
from sgpo.leader.pairs import Pairs
from sgpo.leader.recent import RecentGaps
from sgpo.leader.robust_loss import RobustLoss
from sgpo.robust.exact import worst_case
from sgpo.robust.losses import mixture_loss, transport_loss

STEPS = ("envelope", "transport", "mixture")
SCHEDULES = ("round", "epoch", "step")
TRAINING = {"radius": 2.0, "max_steps": 6, "lr_scheduler_type": "constant", **MARGIN}


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def trained(make_trainer, **options):
    """A trainer after training, with the gaps of every row it saw, optimiser step by optimiser step."""
    trainer = make_trainer(**{**TRAINING, **options})
    seen, losses = {}, trainer.pair_loss.losses

    def spy(batch):
        step = seen.setdefault(batch.step, {})
        step |= dict(zip(batch.tags.row.tolist(), batch.margins.tolist(), strict=True))
        return losses(batch)

    trainer.pair_loss.losses = spy
    trainer.train()
    return trainer, [seen[step] for step in sorted(seen)]


# -- what the follower answers to ------------------------------------------------------------------------------------


def test_schedule_epoch_answers_to_the_gaps_that_the_last_epoch_saw(make_trainer):
    # Two steps make an epoch; after six steps the last answer is to epoch two of three.
    trainer, steps = trained(make_trainer, schedule="epoch", per_device_train_batch_size=4)
    epoch = {**steps[2], **steps[3]}
    gaps = np.array([epoch[row] for row in range(8)])
    assert trainer.worst_cases["all"].price == pytest.approx(worst_case(gaps, 2.0, window=(-20, 20)).price, rel=1e-6)
    assert trainer.pair_loss.follower.answers == 3


def test_schedule_step_answers_to_the_latest_gaps(make_trainer):
    trainer, steps = trained(make_trainer, schedule="step", per_device_train_batch_size=2, recent_pairs=4)
    gaps = np.array([*steps[-2].values(), *steps[-1].values()])
    assert trainer.worst_cases["all"].price == pytest.approx(worst_case(gaps, 2.0, window=(-20, 20)).price, rel=1e-6)
    assert trainer.pair_loss.follower.answers == 7


def test_schedule_step_starts_from_the_initial_gaps(make_trainer):
    trainer, steps = trained(make_trainer, schedule="step", per_device_train_batch_size=2, max_steps=1)
    initial = batch_margins(make_trainer(**TRAINING)).detach().double().numpy()
    kept = np.sort(initial)[((np.arange(6) + 0.5) * 8 / 6).astype(int)]
    gaps = np.concatenate([kept, list(steps[0].values())])
    assert trainer.worst_cases["all"].price == pytest.approx(worst_case(gaps, 2.0, window=(-20, 20)).price, rel=1e-5)


def test_schedule_round_answers_once(make_trainer):
    trainer, _ = trained(make_trainer, schedule="round", per_device_train_batch_size=2)
    assert trainer.pair_loss.follower.answers == 1


def test_one_price_holds_within_an_optimiser_step(make_trainer):
    trainer = make_trainer(
        **{**TRAINING, "schedule": "step", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    )
    prices, loss = [], trainer.compute_loss

    def spy(*args, **kwargs):
        result = loss(*args, **kwargs)
        prices.append(float(trainer.worst_cases["all"].price))
        return result

    trainer.compute_loss = spy
    trainer.train()
    steps = np.array(prices).reshape(6, 4)
    assert (steps == steps[:, :1]).all()
    assert len(set(steps[:, 0])) > 2


def test_a_gap_outside_the_window_is_taken_at_its_end_when_answered_again():
    args = type("Args", (), {"source_radius": None, "radius": 0.5, "space": "margin", "tangents": 0, "schedule": "step",
                             "recent_pairs": None, "window_rule": "explicit", "window": [-1.0, 1.0],
                             "solver": "exact", "group_size": None, "seed": 0})  # fmt: skip
    follower = Follower(args, Pairs(np.arange(3)), np.array([0.0, 0.5, 0.9]))
    follower.answer()
    follower.see(np.arange(3), np.array([-3.0, 0.5, 4.0]))
    expected = worst_case(np.array([-1.0, 0.5, 1.0]), 0.5, window=(-1, 1))
    assert follower.worst_cases["all"].value == pytest.approx(expected.value)


def test_a_gap_outside_the_window_before_training_is_an_error(make_trainer):
    with pytest.raises(InputError, match="outside the window"):
        make_trainer(radius=0.1, space="margin", tangents=0, window=[-0.01, 0.01]).train()


# -- the running window ----------------------------------------------------------------------------------------------


def test_the_running_window_forgets_whole_steps():
    recent = RecentGaps(np.arange(10.0), np.arange(10), capacity=6)
    for step in range(4):
        recent.push(np.full(2, 100.0 + step), np.array([2 * step, 2 * step + 1]))
    assert recent.read()[0].tolist() == [101, 101, 102, 102, 103, 103]


def test_what_steps_do_not_fill_is_an_even_selection_of_the_initial_gaps():
    recent = RecentGaps(np.random.default_rng(0).permutation(1000.0 * np.arange(1000)), np.arange(1000), capacity=100)
    assert np.quantile(recent.read()[0], 0.5) == pytest.approx(499_500, rel=0.01)
    recent.push(np.full(40, -1.0), np.arange(40))
    gaps, _ = recent.read()
    assert len(gaps) == 100 and (gaps == -1).sum() == 40
    assert np.median(gaps[gaps >= 0]) == pytest.approx(499_500, rel=0.02)


def test_the_running_window_holds_no_more_than_the_dataset():
    recent = RecentGaps(np.zeros(5), np.arange(5), capacity=1024)
    recent.push(np.ones(3), np.arange(3))
    recent.push(np.full(3, 2.0), np.arange(3))
    assert recent.read()[0].tolist() == [0, 0, 2, 2, 2]


def test_a_step_larger_than_the_window_is_kept_whole():
    recent = RecentGaps(np.zeros(9), np.arange(9), capacity=4)
    recent.push(np.arange(8.0), np.arange(8))
    assert recent.read()[0].tolist() == list(range(8))


# -- the steps by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [MARGIN, PROBABILITY, {**MARGIN, "tangents": 4}], ids=["margin", "prob", "tangent"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("step", ["transport", "mixture"])
def test_the_trainers_loss_is_the_steps_own(make_trainer, step, schedule, options):
    radius = 0.2 if options["space"] == "probability" else 2.0
    proximal = {"proximal": 0.3} if step == "mixture" else {}
    trainer = make_trainer(radius=radius, step=step, schedule=schedule, **options, **proximal)
    loss, gradients = loss_and_gradients(trainer)

    restated = make_trainer(**options, radius=radius)
    margins = batch_margins(restated)
    worst = worst_case(
        margins.detach().double(),
        radius,
        space=options["space"],
        window=options.get("window"),
        tangents=options["tangents"] or None,
    )
    loss_of = {"transport": transport_loss, "mixture": mixture_loss}[step]
    expected = loss_of(
        margins.double(), moved=worst.moved, anchor=worst.points, lower=worst.window[0], link=worst.link, **proximal
    ).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(
        gradients, {name: p.grad for name, p in restated.model.named_parameters() if p.grad is not None}, 1e-4
    )


def test_groups_move_what_their_mean_price_pays_for(make_trainer):
    """Groups have a marginal gap each; the loss has their mean price alone, and the envelope is its dual."""
    trainer = make_trainer(radius=10.0, group_size=2, **MARGIN)
    loss, gradients = loss_and_gradients(trainer)
    worst, restated = trainer.worst_cases["all"], make_trainer(radius=10.0, **MARGIN)
    margins = batch_margins(restated)
    stay = torch.nn.functional.softplus(-margins)
    go = torch.nn.functional.softplus(torch.tensor(20.0)) - worst.price * (margins + 20)
    expected = torch.maximum(stay, go).mean() + 10.0 * worst.price
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert trainer._metrics["train"]["robust/moved_share"][0] == pytest.approx((go > stay).float().mean().item())
    assert (go > stay).sum() != (margins < worst.marginal).sum()
    assert_same_gradients(
        gradients, {name: p.grad for name, p in restated.model.named_parameters() if p.grad is not None}, 1e-4
    )


def test_displacements_stay_while_the_policy_moves(make_trainer):
    trainer, _ = trained(make_trainer, step="transport", schedule="round")
    moved, anchor = (table.clone() for table in trainer.pair_loss.follower._displacements(torch.device("cpu")))
    initial = batch_margins(make_trainer(**TRAINING)).detach()
    torch.testing.assert_close(anchor, initial, rtol=0, atol=1e-5)
    assert 0 < moved.sum() < 8


def test_evaluation_pairs_meet_the_displacement_of_the_marginal_gap(make_trainer, pairs):
    trainer = make_trainer(**TRAINING, step="transport", more={"eval_dataset": pairs.select(range(5))})
    loss = trainer.evaluate()["eval_loss"]
    worst = trainer.worst_cases["all"]
    points = batch_margins(make_trainer(**TRAINING)).detach()[:5]
    # Whoever is below the marginal gap is sent to a, where the link is f(a); the marginal pair in part.
    moved = torch.as_tensor(worst.moved[:5])
    expected = (moved * worst.link.value(torch.tensor(-20.0)) + (1 - moved) * worst.link.value(points)).mean()
    assert loss == pytest.approx(expected.item(), abs=1e-4)


# -- invariance and resuming -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "schedule"), list(itertools.product(STEPS, SCHEDULES)))
def test_one_batch_of_eight_trains_as_eight_of_one(make_trainer, step, schedule):
    options = {"step": step, "schedule": schedule, "max_steps": 4, "optim": "sgd", "learning_rate": 0.05}
    whole, whole_steps = trained(make_trainer, **options)
    parts, part_steps = trained(make_trainer, **options, per_device_train_batch_size=1, gradient_accumulation_steps=8)
    for first, second in zip(whole_steps, part_steps, strict=True):
        assert first == pytest.approx(second, abs=1e-5)
    losses = [[record["loss"] for record in one.state.log_history if "loss" in record] for one in (whole, parts)]
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=1e-5, atol=1e-5)


# Step 3 is the middle of the second epoch, step 4 its end.
@pytest.mark.parametrize("checkpoint", [3, 4])
@pytest.mark.parametrize(
    ("step", "schedule"), [("envelope", "round"), ("transport", "epoch"), ("envelope", "epoch"), ("mixture", "step")]
)
def test_a_resumed_run_ends_with_the_bits_of_one_that_was_not_interrupted(
    make_trainer, tmp_path, step, schedule, checkpoint
):
    options = {
        **TRAINING,
        "step": step,
        "schedule": schedule,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": checkpoint,
    }
    whole = make_trainer(**options)
    whole.train()
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{checkpoint}"))
    assert resumed.worst_cases["all"].price == whole.worst_cases["all"].price
    for name, value in weights_of(whole).items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert (tmp_path / "out" / f"checkpoint-{checkpoint}" / RobustLoss.state_file).is_file()


def test_resuming_measures_no_gap_again(make_trainer, tmp_path, monkeypatch):
    options = {**TRAINING, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_trainer(**options).train()
    resumed = make_trainer(**options)
    monkeypatch.setattr(resumed, "_look_at", lambda *args: pytest.fail("measured what the checkpoint holds"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_checkpoint_of_another_dataset_is_refused(make_trainer, pairs, tmp_path, schedule):
    options = {**TRAINING, "schedule": schedule, "max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    make_trainer(**options).train()
    other = make_trainer(**options, dataset=pairs.select(range(6)))
    with pytest.raises(InputError, match="follower has 8 pairs and train_dataset has 6"):
        other.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stored_scores_and_robust_terms_make_one_forward_pass_per_batch(make_trainer, pairs, schedule):
    data = with_stored_scores(make_trainer(**TRAINING), pairs)
    trainer = make_trainer(
        dataset=data, ref_model=None, **{**TRAINING, "schedule": schedule, "per_device_train_batch_size": 2}
    )
    calls = []
    trainer.model.register_forward_hook(lambda *args: calls.append(1))
    trainer.train()
    assert len(calls) == 6
