"""SGPOTrainer is DPO when the radius is 0 and the follower's dual when it is not."""

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from leader.batches import MARGIN, assert_same_gradients, batch_margins, loss_and_gradients, with_stored_scores
from sgpo.errors import InputError
from sgpo.leader import SGPOConfig, SGPOTrainer
from sgpo.robust.exact import worst_case
from sgpo.robust.losses import robust_value


@pytest.mark.parametrize(
    "loss", [{}, {"loss_type": ["ipo"]}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}]
)
def test_zero_radius_is_dpo(make_trainer, loss):
    ours = loss_and_gradients(make_trainer(radius=0.0, **loss))
    theirs = loss_and_gradients(make_trainer(DPOTrainer, DPOConfig, **loss))
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert_same_gradients(ours[1], theirs[1], 1e-6)


def test_a_vanishing_radius_tends_to_dpo(make_trainer):
    ours = loss_and_gradients(make_trainer(radius=1e-9, **MARGIN))
    theirs = loss_and_gradients(make_trainer(DPOTrainer, DPOConfig))
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)


@pytest.mark.parametrize(
    "follower",
    [{"radius": 4.0, **MARGIN}, {"radius": 0.2, "space": "probability", "tangents": 6}],
    ids=["margin", "probability"],
)
def test_loss_and_gradients_are_those_of_the_robust_value(make_trainer, follower):
    trainer = make_trainer(**follower)
    loss, gradients = loss_and_gradients(trainer)
    reference = make_trainer(**follower)
    margins = batch_margins(reference)
    value = robust_value(
        margins,
        follower["radius"],
        space=follower["space"],
        window=follower.get("window"),
        tangents=follower["tangents"] or None,
    )
    (pull,) = torch.autograd.grad(value, margins, retain_graph=True)
    assert loss == pytest.approx(value.item(), abs=1e-5)

    # Envelope (Danskin): the pull of each pair, the split one at the margin included, is that of the robust value.
    assert 0.05 < trainer.worst_cases["all"].moved_share < 0.95
    assert ((trainer.worst_cases["all"].moved > 0) & (trainer.worst_cases["all"].moved < 1)).sum() == 1
    margins.backward(pull)
    expected = {name: p.grad for name, p in reference.model.named_parameters() if p.grad is not None}
    assert_same_gradients(gradients, expected, 1e-4)


@pytest.mark.parametrize("space", [MARGIN, {"space": "probability", "tangents": 6}], ids=["margin", "probability"])
def test_gaps_that_all_start_at_zero_share_the_split(make_trainer, space):
    """Without a reference model every pair is marginal; its pull is (1 - m) f' - m price, whatever rounding says."""
    radius = {"margin": 4.0, "probability": 0.1}[space["space"]]
    trainer = make_trainer(ref_model=None, radius=radius, **space)
    _, gradients = loss_and_gradients(trainer)
    worst = trainer.worst_cases["all"]
    dpo = loss_and_gradients(make_trainer(ref_model=None, radius=0.0))[1]
    rate = 0.25 if space["space"] == "probability" else 1.0
    slope = float(worst.link.slope(np.float64(worst.marginal)))
    pull = rate * ((1 - worst.moved_share) * slope - worst.moved_share * worst.price)
    assert 0 < worst.moved_share < 1
    assert_same_gradients(gradients, {name: gradient * pull / -0.5 for name, gradient in dpo.items()}, 1e-4)


def test_robust_loss_keeps_the_other_parts_of_a_mixed_loss(make_trainer):
    mixed = {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.5, 2.0]}
    robust = make_trainer(radius=1.0, **MARGIN)
    alone = loss_and_gradients(robust)[0]
    sft_part = loss_and_gradients(make_trainer(radius=0.0, loss_type=["sft"]))[0]
    together = loss_and_gradients(make_trainer(radius=1.0, **MARGIN, **mixed))[0]
    assert together == pytest.approx(0.5 * alone + 2.0 * sft_part, abs=1e-5)


def test_the_gradient_does_not_depend_on_the_microbatch(make_trainer):
    trainer = make_trainer(radius=1.0, **MARGIN)
    whole = loss_and_gradients(trainer)
    parts = [loss_and_gradients(trainer, trainer.data_collator([trainer.train_dataset[i]])) for i in range(8)]
    assert np.mean([loss for loss, _ in parts]) == pytest.approx(whole[0], abs=1e-5)
    mean = {name: sum(gradients[name] for _, gradients in parts) / 8 for name in whole[1]}
    assert_same_gradients(mean, whole[1], 1e-5)


def test_the_follower_answers_to_the_gaps_before_the_first_step(make_trainer):
    trainer = make_trainer(radius=1.0, max_steps=2, **MARGIN)
    gaps = batch_margins(trainer).detach().double().numpy()
    trainer.train()
    expected = worst_case(gaps, 1.0, space="margin", window=(-20.0, 20.0))
    assert trainer.worst_cases["all"].price == pytest.approx(expected.price, abs=1e-5)
    assert trainer.worst_cases["all"].value == pytest.approx(expected.value, abs=1e-5)


def test_without_a_reference_every_first_gap_is_zero(make_trainer):
    trainer = make_trainer(ref_model=None, radius=0.05, max_steps=1)
    trainer.train()
    assert trainer.worst_cases["all"].empirical_value == pytest.approx(np.log(2), abs=1e-12)
    assert trainer.worst_cases["all"].moved_share == pytest.approx(0.05 / 0.5, abs=1e-12)


def test_stored_scores_take_the_place_of_the_reference_model(make_trainer, pairs):
    with_model = make_trainer(radius=1.0, **MARGIN)
    stored = make_trainer(dataset=with_stored_scores(with_model, pairs), ref_model=None, radius=1.0, **MARGIN)
    assert stored.ref_model is None
    first, second = loss_and_gradients(with_model), loss_and_gradients(stored)
    assert first[0] == pytest.approx(second[0], abs=1e-5)
    assert_same_gradients(first[1], second[1], 1e-4)
    assert stored.worst_cases["all"].price == pytest.approx(with_model.worst_cases["all"].price, rel=1e-4)


def test_stored_policy_scores_save_the_pass_that_measures_gaps(make_trainer, pairs, monkeypatch):
    dataset = with_stored_scores(make_trainer(radius=1.0, **MARGIN), pairs)
    trainer = make_trainer(dataset=dataset, ref_model=None, radius=1.0, **MARGIN)
    monkeypatch.setattr(trainer, "_look_at", lambda *args: pytest.fail("measured what the dataset stores"))
    loss_and_gradients(trainer)


def test_stored_reference_scores_alone_have_the_policy_measured(make_trainer, pairs):
    with_model = make_trainer(radius=1.0, **MARGIN)
    dataset = with_stored_scores(with_model, pairs, policy=False)
    stored = make_trainer(dataset=dataset, ref_model=None, radius=1.0, **MARGIN)
    assert loss_and_gradients(stored)[0] == pytest.approx(loss_and_gradients(with_model)[0], abs=1e-5)


def test_rows_that_trl_drops_are_not_in_the_follower(make_trainer, pairs):
    trainer = make_trainer(radius=1.0, **MARGIN)
    dataset = with_stored_scores(trainer, pairs)
    lengths = [len(row["prompt_ids"]) for row in trainer.train_dataset]
    stored = make_trainer(dataset=dataset, ref_model=None, radius=1.0, max_length=max(lengths), **MARGIN)
    kept = [index for index, length in enumerate(lengths) if length < max(lengths)]
    assert 0 < len(kept) < len(pairs)
    loss_and_gradients(stored)
    assert len(stored.worst_cases["all"].moved) == len(kept)


@pytest.mark.parametrize("missing", ["ref_rejected_logps", "rejected_logps"])
def test_half_of_the_stored_scores_is_refused(make_trainer, pairs, missing):
    dataset = with_stored_scores(make_trainer(radius=0.0), pairs).remove_columns(missing)
    with pytest.raises(InputError, match=missing):
        make_trainer(dataset=dataset, ref_model=None, radius=1.0, **MARGIN).train()


def test_a_stored_score_that_is_not_finite_names_its_row(make_trainer, pairs):
    dataset = with_stored_scores(make_trainer(radius=0.0), pairs)
    values = [*dataset["ref_chosen_logps"][:3], float("nan"), *dataset["ref_chosen_logps"][4:]]
    dataset = dataset.remove_columns("ref_chosen_logps").add_column("ref_chosen_logps", values)
    with pytest.raises(InputError, match="row 3: ref_chosen_logps is nan"):
        make_trainer(dataset=dataset, ref_model=None, radius=1.0, **MARGIN)


def test_a_stream_is_refused_because_the_follower_needs_every_gap(make_trainer, pairs):
    stream = IterableDataset.from_generator(lambda: iter(pairs))
    with pytest.raises(ValueError, match=r"IterableDataset with radius 1\.0"):
        make_trainer(dataset=stream, radius=1.0, **MARGIN)


def test_robust_metrics_stand_beside_trls(make_trainer):
    trainer = make_trainer(radius=1.0, max_steps=1, **MARGIN)
    trainer.train()
    record = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert record["robust/value"] == pytest.approx(trainer.worst_cases["all"].value, abs=1e-5)
    assert record["loss"] == pytest.approx(record["robust/value"], abs=1e-4)
    assert record["robust/price"] == pytest.approx(trainer.worst_cases["all"].price, abs=1e-6)
    assert record["robust/moved_share"] == pytest.approx(np.mean(trainer.worst_cases["all"].moved > 0.5), abs=0.13)
    assert "rewards/margins" in record


def test_positional_arguments_are_trls(policy_path, make_arguments, pairs):
    """The fourth is the collator, as in DPOTrainer, and not the training set."""
    tokenizer = AutoTokenizer.from_pretrained(policy_path)
    trainer = SGPOTrainer(policy_path, None, make_arguments(radius=0.0), None, pairs, pairs.select(range(4)), tokenizer)
    assert len(trainer.train_dataset) == len(pairs) and len(trainer.eval_dataset) == 4
    assert trainer.processing_class is tokenizer


def test_trls_own_config_is_refused(make_trainer):
    with pytest.raises(TypeError, match="args is a DPOConfig"):
        make_trainer(SGPOTrainer, DPOConfig)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"radius": -0.1}, "radius is -0.1; allowed: a number >= 0"),
        ({"radius": float("inf")}, "radius is inf"),
        ({"space": "reward"}, "space is 'reward'; allowed: 'margin' or 'probability'"),
        ({"space": "margin"}, "window is None in margin space; .* Or window_rule 'min_max' or 'quantiles'"),
        ({"space": "margin", "window": [1.0, -1.0]}, r"window is \[1\.0, -1\.0\]; allowed: \[a, b\] with a < b"),
        ({"window": [-1.0, 1.0]}, "within \\[0, 1\\]"),
        ({"tangents": 0}, r"where the link -log p is inf at 0\.0; allowed: .* tangents >= 1"),
        ({"tangents": -1}, "tangents is -1"),
        ({"label_smoothing": 0.1}, "label_smoothing is 0.1"),
        ({"loss_type": ["ipo"]}, "loss_type is \\['ipo'\\] with radius"),
        ({"f_divergence_type": "forward_kl"}, "f_divergence_type is 'forward_kl'"),
        ({"use_weighting": True}, "use_weighting is True"),
        ({"sync_ref_model": True}, "sync_ref_model is True"),
    ],
)
def test_what_the_robust_loss_cannot_mean_is_refused(make_arguments, changes, said):
    with pytest.raises(ValueError, match=said):
        make_arguments(SGPOConfig, **changes)
