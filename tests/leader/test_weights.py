"""Weights and sources of pairs, from the dataset to the loss."""

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from trl import DPOConfig, DPOTrainer

from leader.batches import (
    MARGIN,
    PROBABILITY,
    assert_same_gradients,
    batch_margins,
    loss_and_gradients,
    whole_batch,
)
from sgpo.errors import InputError
from sgpo.robust.exact import worst_case

WEIGHTS = [1.0, 0.5, 3.0, 0.25, 2.0, 1.0, 0.75, 1.5]
SOURCES = ["human", "self", "self", "human", "self", "human", "self", "self"]
FOLLOWERS = {
    "plain": {"radius": 0.0},
    "envelope": {"radius": 2.0, **MARGIN},
    "transport": {"radius": 2.0, "step": "transport", **MARGIN},
    "mixture": {"radius": 2.0, "step": "mixture", "proximal": 0.1, **MARGIN},
    "probability": {"radius": 0.1, "step": "transport", **PROBABILITY},
    "exact link, infinite at 0": {
        "radius": 0.1,
        "step": "mixture",
        "space": "probability",
        "tangents": 0,
        "window": [0.01, 0.99],
    },
    "every step": {"radius": 2.0, "schedule": "step", **MARGIN},
    "every epoch, quantiles": {
        "radius": 0.5,
        "space": "margin",
        "tangents": 4,
        "window_rule": "quantiles",
        "window_margin": 2.0,
        "schedule": "epoch",
    },
}
follower = pytest.mark.parametrize("follower", FOLLOWERS.values(), ids=FOLLOWERS)


def weighted(pairs, weights=WEIGHTS):
    return pairs.add_column("weight", weights)


def test_weighted_dpo_is_the_weighted_mean_of_dpo_losses(make_trainer, pairs):
    ours = loss_and_gradients(make_trainer(dataset=weighted(pairs), radius=0.0))
    single = make_trainer(DPOTrainer, DPOConfig)
    parts = [
        loss_and_gradients(single, single.data_collator([single.train_dataset[row]])) for row in range(len(WEIGHTS))
    ]
    share = np.array(WEIGHTS) / np.sum(WEIGHTS)
    assert ours[0] == pytest.approx(np.dot(share, [loss for loss, _ in parts]), abs=1e-6)
    mean = {name: sum(w * part[name] for w, (_, part) in zip(share, parts, strict=True)) for name in ours[1]}
    assert_same_gradients(ours[1], mean, 1e-5)


def test_the_weighted_envelope_loss_is_the_weighted_robust_value(make_trainer, pairs):
    trainer = make_trainer(dataset=weighted(pairs), radius=2.0, **MARGIN)
    loss, _ = loss_and_gradients(trainer)
    margins = batch_margins(trainer).detach().double().numpy()
    expected = worst_case(margins, 2.0, space="margin", window=(-20.0, 20.0), weights=WEIGHTS)
    assert loss == pytest.approx(expected.value, abs=1e-5)
    assert trainer.worst_cases["all"].price == pytest.approx(expected.price, abs=1e-5)


@follower
def test_equal_weights_change_nothing(make_trainer, pairs, follower):
    with_column = loss_and_gradients(make_trainer(dataset=weighted(pairs, [7.0] * 8), **follower))
    without = loss_and_gradients(make_trainer(**follower))
    assert with_column[0] == pytest.approx(without[0], abs=1e-6)
    assert_same_gradients(with_column[1], without[1], 1e-5)


@follower
def test_a_zero_weight_removes_a_pair(make_trainer, pairs, follower):
    weights = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    silenced = make_trainer(dataset=weighted(pairs, weights), **follower)
    absent = make_trainer(dataset=pairs.select([0, 1, 3, 4, 6, 7]), **follower)
    first, second = loss_and_gradients(silenced), loss_and_gradients(absent)
    assert first[0] == pytest.approx(second[0], abs=1e-6)
    # The batches are padded to different lengths, which rounds differently.
    assert_same_gradients(first[1], second[1], 1e-4)
    for name, worst in silenced.worst_cases.items():
        assert worst.price == pytest.approx(absent.worst_cases[name].price, rel=1e-6)
        assert len(worst.points) == 6


def test_a_pair_of_zero_weight_has_no_gradient_at_all(make_trainer, pairs):
    trainer = make_trainer(dataset=weighted(pairs, [0.0] + [1.0] * 7), radius=2.0, **MARGIN)
    loss, gradients = loss_and_gradients(trainer, trainer.data_collator([trainer.train_dataset[0]]))
    assert loss == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients.values())


@follower
def test_weighted_gradients_do_not_depend_on_the_microbatch(make_trainer, pairs, follower):
    trainer = make_trainer(dataset=weighted(pairs), **follower)
    whole = loss_and_gradients(trainer)
    parts = [loss_and_gradients(trainer, trainer.data_collator([trainer.train_dataset[row]])) for row in range(8)]
    assert np.mean([loss for loss, _ in parts]) == pytest.approx(whole[0], abs=1e-5)
    mean = {name: sum(gradients[name] for _, gradients in parts) / 8 for name in whole[1]}
    assert_same_gradients(mean, whole[1], 1e-5)


def test_weights_are_scaled_over_the_pairs_that_are_kept(make_trainer, pairs):
    lengths = [len(row["prompt_ids"]) for row in make_trainer(radius=0.0).train_dataset]
    kept = [row for row, length in enumerate(lengths) if length < max(lengths)]
    trainer = make_trainer(dataset=weighted(pairs), radius=0.0, max_length=max(lengths))
    tags = whole_batch(trainer)
    assert tags["sgpo_row"].tolist() == kept
    expected = np.array(WEIGHTS)[kept] / np.mean(np.array(WEIGHTS)[kept])
    np.testing.assert_allclose(tags["sgpo_weight"], expected, rtol=1e-6)


def test_evaluation_weighs_its_own_pairs(make_trainer, pairs):
    half = pairs.select(range(4))
    trainer = make_trainer(radius=0.0, more={"eval_dataset": weighted(half, [0.0, 0.0, 5.0, 0.0])})
    only = make_trainer(radius=0.0, more={"eval_dataset": half.select([2])})
    assert trainer.evaluate()["eval_loss"] == pytest.approx(only.evaluate()["eval_loss"], abs=1e-5)


def test_weights_work_when_unused_columns_are_kept(make_trainer, pairs):
    losses = []
    for remove in (True, False):
        trainer = make_trainer(dataset=weighted(pairs), radius=2.0, remove_unused_columns=remove, **MARGIN)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0] * 3 + [-1.0] + [1.0] * 4, r"train dataset row 3: weight is -1\.0; allowed: a finite number >= 0"),
        ([1.0] * 7 + [float("nan")], "row 7: weight is nan"),
        ([1.0] * 6 + [None, 1.0], "row 6: weight is None"),
        ([0.0] * 8, "all weights are 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused_by_row(make_trainer, pairs, weights, said):
    with pytest.raises(InputError, match=said):
        make_trainer(dataset=weighted(pairs, weights), radius=0.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss_type": ["ipo"]}, r"loss_type is \['ipo'\] with a 'weight' column"),
        ({"loss_type": ["sigmoid", "sft"]}, "loss_type is"),
        ({"f_divergence_type": "js_divergence"}, "f_divergence_type is 'js_divergence' with a 'weight' column"),
        ({"use_weighting": True}, "use_weighting is True with a 'weight' column"),
    ],
)
def test_weights_are_refused_where_they_have_no_place(make_trainer, pairs, changes, said):
    with pytest.raises(ValueError, match=said):
        make_trainer(dataset=weighted(pairs), radius=0.0, **changes)


def test_weights_of_an_evaluation_set_are_refused_where_they_have_no_place(make_trainer, pairs):
    with pytest.raises(ValueError, match=r"loss_type is \['ipo'\] with a 'weight' column"):
        make_trainer(radius=0.0, loss_type=["ipo"], more={"eval_dataset": weighted(pairs)})


def test_weights_in_a_stream_are_refused(make_trainer, pairs):
    stream = IterableDataset.from_generator(lambda: iter(weighted(pairs)))
    with pytest.raises(ValueError, match="IterableDataset with a 'weight' column"):
        make_trainer(dataset=stream, radius=0.0)


def test_weights_in_an_evaluation_stream_are_refused(make_trainer, pairs):
    stream = IterableDataset.from_generator(lambda: iter(weighted(pairs)))
    with pytest.raises(InputError, match="eval dataset is a IterableDataset with weights or source_radius"):
        make_trainer(radius=0.0, more={"eval_dataset": stream})


def test_a_prepared_dataset_that_is_shuffled_and_handed_over_again_is_numbered_anew(make_trainer, pairs):
    first = make_trainer(dataset=weighted(pairs), radius=2.0, **MARGIN)
    again = make_trainer(dataset=first.train_dataset.shuffle(seed=1), radius=2.0, **MARGIN)
    assert again.train_dataset["sgpo_row"][:] == list(range(8))
    assert loss_and_gradients(again)[0] == pytest.approx(loss_and_gradients(first)[0], abs=1e-5)


def test_images_are_refused_with_a_radius(make_trainer, pairs):
    with pytest.raises(ValueError, match=r"images with radius 2\.0"):
        make_trainer(dataset=pairs.add_column("image", [None] * 8), radius=2.0, **MARGIN)


# -- sources ---------------------------------------------------------------------------------------------------------


def with_sources(pairs, sources=SOURCES):
    return pairs.add_column("source", sources)


def test_each_source_has_a_ball_and_a_price_of_its_own(make_trainer, pairs):
    radius = {"human": 0.5, "self": 3.0}
    trainer = make_trainer(dataset=with_sources(pairs), source_radius=radius, **MARGIN)
    loss, _ = loss_and_gradients(trainer)
    margins, total = batch_margins(trainer).detach().double().numpy(), 0.0
    for source in radius:
        mine = margins[[name == source for name in SOURCES]]
        expected = worst_case(mine, radius[source], space="margin", window=(-20.0, 20.0))
        assert trainer.worst_cases[source].price == pytest.approx(expected.price, abs=1e-5)
        total += len(mine) / 8 * expected.value
    assert loss == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("step", ["envelope", "transport", "mixture"])
def test_a_source_of_radius_zero_is_dpo_on_its_pairs(make_trainer, pairs, step):
    trainer = make_trainer(
        dataset=with_sources(pairs), source_radius={"human": 0, "self": 3.0}, step=step, tangents=3, space="probability"
    )
    dpo = make_trainer(DPOTrainer, DPOConfig)
    human = [row for row, name in enumerate(SOURCES) if name == "human"]
    ours = loss_and_gradients(trainer, trainer.data_collator([trainer.train_dataset[row] for row in human]))
    theirs = loss_and_gradients(dpo, dpo.data_collator([dpo.train_dataset[row] for row in human]))
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert_same_gradients(ours[1], theirs[1], 1e-6)
    assert set(trainer.worst_cases) == {"self"}


@pytest.mark.parametrize("schedule", ["round", "epoch", "step"])
@pytest.mark.parametrize("step", ["envelope", "transport", "mixture"])
def test_one_source_alone_is_one_radius(make_trainer, pairs, step, schedule):
    options = {"step": step, "schedule": schedule, "max_steps": 3, "per_device_train_batch_size": 4, **MARGIN}
    mixed = make_trainer(dataset=with_sources(pairs, ["self"] * 8), source_radius={"human": 0, "self": 2.0}, **options)
    plain = make_trainer(radius=2.0, **options)
    mixed.train()
    plain.train()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(mixed.model.state_dict()[name], value, rtol=0, atol=1e-7)


def test_where_every_pair_has_radius_zero_no_gap_is_measured(make_trainer, pairs, monkeypatch):
    data = with_sources(pairs, ["human"] * 8)
    trainer = make_trainer(dataset=data, source_radius={"human": 0, "self": 2.0}, **MARGIN)
    monkeypatch.setattr(trainer, "_look_at", lambda *args: pytest.fail("measured gaps that nothing asks for"))
    theirs = loss_and_gradients(make_trainer(DPOTrainer, DPOConfig))
    assert loss_and_gradients(trainer)[0] == pytest.approx(theirs[0], abs=1e-6)


def test_prices_are_logged_by_source(make_trainer, pairs):
    trainer = make_trainer(dataset=with_sources(pairs), source_radius={"human": 0.5, "self": 3.0}, **MARGIN)
    trainer.train()
    record = trainer.state.log_history[0]
    for source, worst in trainer.worst_cases.items():
        assert record[f"robust/price/{source}"] == pytest.approx(worst.price, abs=1e-9)
        assert record[f"robust/window_low/{source}"] == -20.0


def test_a_source_without_a_radius_is_named(make_trainer, pairs):
    data = with_sources(pairs, ["self"] * 5 + ["web"] + ["self"] * 2)
    with pytest.raises(InputError, match=r"train dataset row 5: source is 'web'; allowed: 'human', 'self'"):
        make_trainer(dataset=data, source_radius={"human": 0, "self": 2.0}, **MARGIN)


def test_a_missing_source_column_is_named(make_trainer):
    with pytest.raises(InputError, match="train dataset has no column 'source'"):
        make_trainer(source_radius={"human": 0, "self": 2.0}, **MARGIN)
