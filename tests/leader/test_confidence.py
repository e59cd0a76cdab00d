"""SPA's confidence-based smoothing: its formula, its threshold, and that neither batches nor restarts change it."""

import math

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from trl import DPOConfig, DPOTrainer

from leader.batches import assert_same_gradients, batch_margins, loss_and_gradients
from sgpo.errors import InputError
from sgpo.leader import SGPOConfig
from sgpo.leader.confidence import RecentMargins, SmoothedLoss, smoothed_loss
from sgpo.leader.guards import LeaderAlert
from sgpo.leader.train import build_arguments

SPA = {"radius": 0.0, "confidence_smoothing": 0.3, "confidence_quantile": 0.5, "confidence_warmup": 0.0}
CDPO = {"radius": 0.0, "confidence_smoothing": 0.3, "confidence_quantile": 1.0, "confidence_warmup": 0.0}
TRAINING = {"max_steps": 6, "lr_scheduler_type": "constant", "learning_rate": 1e-3, "per_device_train_batch_size": 4}


def records(trainer):
    return [record for record in trainer.state.log_history if "loss" in record]


def judged_steps(trainer):
    """Trains; the margins that the confidence was shown, optimiser step by optimiser step."""
    steps, add = {}, trainer.pair_loss.seen.add

    def spy(rows, margins):
        steps.setdefault(trainer.state.global_step, []).extend(margins.tolist())
        add(rows, margins)

    trainer.pair_loss.seen.add = spy
    trainer.train()
    return [np.array(steps[step]) for step in sorted(steps)]


# -- formulas --------------------------------------------------------------------------------------------------------


def test_the_loss_is_spas_formula():
    margins = np.random.default_rng(0).normal(0, 3, 50)
    confident = np.arange(50) % 3 == 0
    alpha = 0.1
    sigma = 1 / (1 + np.exp(-margins))
    expected = -np.log(sigma) * (1 - alpha + alpha * confident) - np.log(1 - sigma) * alpha * (1 - confident)
    ours = smoothed_loss(torch.tensor(margins), torch.tensor(alpha * ~confident))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    margins = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
    smoothing = torch.linspace(0, 0.5, 25, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(smoothed_loss(margins, smoothing).sum(), margins)
    step = 1e-5
    rise = smoothed_loss(margins.detach() + step, smoothing) - smoothed_loss(margins.detach() - step, smoothing)
    np.testing.assert_allclose(gradient.numpy(), (rise / (2 * step)).numpy(), atol=1e-9)


def test_the_threshold_is_the_quantile_of_the_latest_whole_steps():
    recent = RecentMargins(0.25, capacity=5)
    assert recent.threshold() == -math.inf
    for step in ([9.0, 9.0], [3.0, 1.0], [2.0, 4.0]):
        recent.push(np.array(step), np.ones(2))
    assert recent.threshold() == 1.0
    recent.push(np.array([5.0, 6.0]), np.ones(2))
    assert recent.threshold() == 2.0


def test_a_weight_of_two_counts_as_two_copies_and_of_zero_as_none():
    generator = np.random.default_rng(0)
    margins, weights = generator.normal(size=30), generator.integers(0, 4, 30)
    for quantile in (0.05, 0.1, 0.37, 0.8):
        weighted, copied = RecentMargins(quantile, 100), RecentMargins(quantile, 100)
        weighted.push(margins, weights.astype(float))
        copied.push(np.repeat(margins, weights), np.ones(weights.sum()))
        assert weighted.threshold() == copied.threshold()


# -- the trainer -----------------------------------------------------------------------------------------------------


def test_without_smoothing_it_is_dpo(make_trainer):
    ours = make_trainer(radius=0.0, confidence_smoothing=0.0, **TRAINING)
    theirs = make_trainer(DPOTrainer, DPOConfig, **TRAINING)
    ours.train()
    theirs.train()
    for name, value in theirs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], value), name


def test_the_warm_up_is_dpo_and_no_longer(make_trainer):
    ours = make_trainer(**{**CDPO, "confidence_warmup": 0.5}, **TRAINING)
    theirs = make_trainer(DPOTrainer, DPOConfig, **TRAINING)
    ours.train()
    theirs.train()
    ours, theirs = records(ours), records(theirs)
    assert [record["loss"] for record in ours[:3]] == pytest.approx([r["loss"] for r in theirs[:3]], abs=1e-6)
    assert [record["confidence/smoothed_share"] for record in ours] == [0, 0, 0, 1, 1, 1]
    assert abs(ours[3]["loss"] - theirs[3]["loss"]) > 1e-3


def test_quantile_one_is_cdpo(make_trainer):
    trainer = make_trainer(**CDPO)
    loss, gradients = loss_and_gradients(trainer)
    other = make_trainer(radius=0.0)
    margins = batch_margins(other)
    expected = (-0.7 * torch.log(torch.sigmoid(margins)) - 0.3 * torch.log(torch.sigmoid(-margins))).mean()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    expected.backward()
    theirs = {name: value.grad for name, value in other.model.named_parameters() if value.grad is not None}
    assert_same_gradients(gradients, theirs, 1e-5)


def test_a_step_doubts_the_pairs_at_or_below_the_quantile_of_the_steps_before(make_trainer):
    trainer = make_trainer(**SPA, **TRAINING, confidence_pairs=8)
    steps = judged_steps(trainer)
    logged = records(trainer)
    assert logged[0]["confidence/smoothed_share"] == 0 and "confidence/threshold" not in logged[0]
    shares = []
    for step in range(1, 6):
        latest = np.concatenate(steps[max(step - 2, 0) : step])
        threshold = np.sort(latest)[len(latest) // 2 - 1]
        margins = steps[step]
        doubted = margins <= threshold
        losses = np.log1p(np.exp(-margins)) + 0.3 * doubted * margins
        assert logged[step]["confidence/threshold"] == pytest.approx(threshold, abs=1e-6)
        assert logged[step]["confidence/smoothed_share"] == pytest.approx(doubted.mean())
        assert logged[step]["loss"] == pytest.approx(losses.mean(), abs=1e-4)
        shares.append(doubted.mean())
    assert 0 < np.mean(shares) < 1


@pytest.mark.parametrize("cut", [(4, 2), (2, 4), (1, 8)], ids=lambda cut: f"{cut[1]}x{cut[0]}")
def test_it_does_not_depend_on_how_a_batch_is_cut(make_trainer, pairs, cut):
    options = {**SPA, **TRAINING, "optim": "sgd", "dataset": pairs.add_column("weight", [1.0, 2.0, 0.0, 3.0] * 2)}
    whole = make_trainer(**{**options, "per_device_train_batch_size": 8})
    options["gradient_accumulation_steps"] = cut[1]
    parts = make_trainer(**{**options, "per_device_train_batch_size": cut[0]})
    whole.train()
    parts.train()
    first, second = records(whole), records(parts)
    for key in ("loss", "confidence/smoothed_share"):
        assert [record[key] for record in second] == pytest.approx([record[key] for record in first], abs=1e-4), key
    assert len({record["confidence/threshold"] for record in first[1:]}) > 1
    assert any(record["confidence/smoothed_share"] > 0 for record in first)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_a_resumed_run_ends_with_the_bits_of_one_that_was_not_interrupted(make_trainer, tmp_path):
    options = {**SPA, **TRAINING, "save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(**options)
    whole.train()
    checkpoint = tmp_path / "out" / "checkpoint-3"
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.pair_loss.threshold == whole.pair_loss.threshold
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name

    (checkpoint / SmoothedLoss.state_file).unlink()
    with pytest.raises(InputError, match=f"holds no {SmoothedLoss.state_file}"):
        make_trainer(**options).train(resume_from_checkpoint=str(checkpoint))


def test_evaluation_has_the_same_threshold_and_leaves_it_alone(make_trainer, pairs):
    trainer = make_trainer(**SPA, **TRAINING, more={"eval_dataset": pairs}, per_device_eval_batch_size=8)
    trainer.train()
    threshold = trainer.pair_loss.threshold
    metrics = trainer.evaluate()
    margins = batch_margins(trainer).detach().double().numpy()
    doubted = margins <= threshold
    assert 0 < doubted.sum() < 8
    assert metrics["eval_loss"] == pytest.approx(
        np.mean(np.log1p(np.exp(-margins)) + 0.3 * doubted * margins), abs=1e-5
    )
    assert metrics["eval_confidence/smoothed_share"] == pytest.approx(doubted.mean())
    assert trainer.pair_loss.threshold == threshold


def test_evaluation_in_between_changes_nothing(make_trainer, pairs):
    plain = make_trainer(**SPA, **TRAINING)
    watched = make_trainer(
        **SPA, **TRAINING, more={"eval_dataset": pairs}, eval_strategy="steps", eval_steps=1, eval_on_start=True
    )
    plain.train()
    watched.train()
    assert watched.pair_loss.threshold == plain.pair_loss.threshold
    for name, value in plain.model.state_dict().items():
        assert torch.equal(watched.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": 1},
        {"max_steps": 2, "confidence_warmup": 0.9},
        {**CDPO, "max_steps": 2, "confidence_warmup": 0.9},
    ],
)
def test_smoothing_that_never_acts_is_said(make_trainer, changes):
    with pytest.warns(LeaderAlert, match=r"confidence_smoothing never acts in \d optimiser steps"):
        make_trainer(**{**SPA, **changes}).train()


def test_the_other_parts_of_a_mixed_loss_stay(make_trainer):
    mixed = {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.5, 2.0]}
    alone = loss_and_gradients(make_trainer(**CDPO))[0]
    sft_part = loss_and_gradients(make_trainer(radius=0.0, loss_type=["sft"]))[0]
    assert loss_and_gradients(make_trainer(**CDPO, **mixed))[0] == pytest.approx(0.5 * alone + 2 * sft_part, abs=1e-5)


def test_a_recipe_takes_it_where_the_radius_is_zero():
    extra = {"confidence_smoothing": 0.1, "confidence_quantile": 0.2, "decoupling": 1.3, "confidence_pairs": 64}
    arguments = build_arguments({"radius": 0.0, "beta": 0.1, "bf16": False}, extra, "out")
    assert [getattr(arguments, name) for name in extra] == list(extra.values())
    with pytest.raises(InputError, match=r"radius is 0\.01 with confidence_smoothing 0\.1; allowed: radius=0"):
        build_arguments({"radius": 0.01, "bf16": False}, extra, "out")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"confidence_smoothing": 0.6}, r"confidence_smoothing is 0\.6; allowed: a number >= 0 and <= 0\.5"),
        ({"confidence_smoothing": -0.1}, r"confidence_smoothing is -0\.1"),
        ({"confidence_quantile": 0.0}, r"confidence_quantile is 0\.0; allowed: a number > 0"),
        ({"confidence_quantile": 1.1}, r"confidence_quantile is 1\.1"),
        ({"confidence_warmup": 1.0}, r"confidence_warmup is 1\.0; allowed: a number >= 0 and < 1"),
        ({"confidence_pairs": 0}, "confidence_pairs is 0"),
        ({"decoupling": 0.5}, r"decoupling is 0\.5; allowed: a number >= 1"),
        ({"decoupling": float("nan")}, "decoupling is nan"),
        ({"confidence_smoothing": 0.0}, r"confidence_quantile is 0\.5 with confidence_smoothing=0; allowed: 0\.1"),
        ({"confidence_smoothing": 0.0, "confidence_quantile": 0.1, "confidence_warmup": 0.2, "decoupling": 2.0},
         r"decoupling is 2\.0 with confidence_smoothing=0; allowed: 1\.0"),
        ({"confidence_quantile": 1.0, "decoupling": 2.0}, r"decoupling is 2\.0 with confidence_quantile=1, which"),
        ({"radius": 0.01}, r"radius is 0\.01 with confidence_smoothing 0\.3; allowed: radius=0"),
        ({"radius": 0.01, "source_radius": {"self": 0.1}}, "source_radius is {'self': 0.1} with confidence_smoothing"),
        ({"loss_type": ["ipo"]}, r"loss_type is \['ipo'\] with confidence_smoothing 0\.3"),
        ({"f_divergence_type": "forward_kl"}, "f_divergence_type is 'forward_kl' with confidence_smoothing"),
        ({"use_weighting": True}, r"use_weighting is True with confidence_smoothing 0\.3; allowed: False"),
        ({"sync_ref_model": True}, "sync_ref_model is True with confidence_smoothing"),
        ({"confidence_smoothing": 0.0, "confidence_quantile": 0.1, "confidence_warmup": 0.2, "label_smoothing": 0.1},
         r"loss_type 'robust' with label_smoothing 0\.1; for cDPO .* confidence_smoothing=0\.1, confidence_quantile=1"),
        ({"confidence_smoothing": 0.0, "confidence_quantile": 0.1, "confidence_warmup": 0.2, "label_smoothing": 0.1,
          "loss_type": ["ipo"]}, r"label_smoothing is 0\.1 with loss_type \['ipo'\]"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_or_does_not_combine_is_refused(make_arguments, changes, said):
    with pytest.raises(ValueError, match=said):
        make_arguments(SGPOConfig, **{**SPA, **changes})


def test_a_stream_has_no_rows_to_remember(make_trainer, pairs):
    stream = IterableDataset.from_generator(lambda: iter(pairs))
    with pytest.raises(ValueError, match=r"IterableDataset with confidence_smoothing 0\.3"):
        make_trainer(dataset=stream, **SPA)


def test_rdpo_is_trls_own_loss(make_trainer):
    loss, _ = loss_and_gradients(make_trainer(radius=0.0, loss_type=["robust"], label_smoothing=0.2))
    margins = batch_margins(make_trainer(radius=0.0)).detach().double().numpy()
    clean, flipped = np.log1p(np.exp(-margins)), np.log1p(np.exp(margins))
    assert loss == pytest.approx(np.mean((0.8 * clean - 0.2 * flipped) / 0.6), abs=1e-5)
