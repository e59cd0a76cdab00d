"""The follower's answers: given ones are not solved again, and every pair has a moved share."""

import numpy as np
import pytest
import torch

from leader.batches import MARGIN, loss_and_gradients, with_stored_scores
from sgpo.errors import InputError
from sgpo.leader import follower as module
from sgpo.leader.follower import Follower
from sgpo.leader.pairs import Pairs
from sgpo.leader.scores import stored_gaps
from sgpo.leader.train import train_leader
from sgpo.policy.load import load_policy
from sgpo.robust.exact import worst_case

SOURCES = np.array([0, 1, 1, 0, 1, 0, 1, 1] * 5)
GAPS = np.random.default_rng(0).normal(size=40)


def answered(make_arguments, *, gaps=GAPS, weights=None, sources=None, **options):
    follower = Follower(make_arguments(**MARGIN, **options), Pairs(np.arange(len(gaps)), weights, sources), gaps)
    follower.answer()
    return follower


# -- moved shares ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["round", "epoch", "step"])
def test_moved_shares_are_those_of_the_worst_case_in_the_order_of_the_pairs(make_arguments, schedule):
    follower = answered(make_arguments, radius=2.0, schedule=schedule)
    expected = worst_case(GAPS, 2.0, window=(-20, 20))
    np.testing.assert_allclose(follower.moved_shares(), expected.moved, atol=1e-12)
    assert 0 < expected.moved_share < 1


def test_shares_of_sources_and_weights_are_in_the_order_of_the_pairs(make_arguments):
    weights = np.arange(40) % 3 / 1.0
    follower = answered(make_arguments, source_radius={"human": 0, "self": 2.0}, weights=weights, sources=SOURCES)
    mine = (SOURCES == 1) & (weights > 0)
    expected = worst_case(GAPS[mine], 2.0, window=(-20, 20), weights=weights[mine])
    np.testing.assert_allclose(follower.moved_shares()[mine], expected.moved, atol=1e-12)
    assert follower.moved_shares()[~mine].tolist() == [0] * (~mine).sum()


def test_pairs_outside_the_running_window_move_as_the_price_says(make_arguments):
    follower = answered(make_arguments, radius=2.0, schedule="step", recent_pairs=10)
    follower.see(np.arange(6), GAPS[:6] + 0.5)
    worst, shares = follower.worst_cases["all"], follower.moved_shares()
    assert len(worst.moved) == 10 < len(shares) == 40
    np.testing.assert_array_equal(shares[:6], worst.moved[-6:])
    outside = np.setdiff1d(np.arange(40), follower._sources[0].places)
    stay = np.logaddexp(0, -GAPS[outside])
    go = np.logaddexp(0, 20) - worst.price * (GAPS[outside] + 20)
    np.testing.assert_array_equal(shares[outside], go > stay)
    assert 0 < shares[outside].mean() < 1


def test_the_latest_gap_of_a_pair_in_the_window_counts(make_arguments):
    follower = answered(make_arguments, radius=2.0, schedule="step", recent_pairs=8)
    follower.see(np.array([0, 1]), np.array([-3.0, 3.0]))
    follower.see(np.array([0, 1]), np.array([3.0, -3.0]))
    moved = follower.worst_cases["all"].moved.tolist()
    assert follower.moved_shares()[:2].tolist() == moved[-2:] != moved[-4:-2]


# -- given answers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """How many worst cases are solved."""
    calls, solve = [], module.solve_worst_case
    monkeypatch.setattr(module, "solve_worst_case", lambda *args, **kwargs: calls.append(1) or solve(*args, **kwargs))
    return calls


@pytest.mark.parametrize("schedule", ["round", "epoch", "step"])
def test_training_on_a_given_answer_has_the_same_bits_and_solves_one_fewer(make_trainer, pairs, counted, schedule):
    options = {"radius": 2.0, "schedule": schedule, "max_steps": 3, "per_device_train_batch_size": 4, **MARGIN}
    data = with_stored_scores(make_trainer(**options), pairs)
    follower = Follower(make_trainer(**options).args, Pairs(np.arange(8)), stored_gaps(data, 0.1))
    follower.answer()
    ends, solved = [], []
    for given in (None, follower.worst_cases):
        counted.clear()
        trainer = make_trainer(dataset=data, ref_model=None, more={"worst_cases": given}, **options)
        trainer.train()
        solved.append(len(counted))
        ends.append(torch.cat([value.flatten() for value in trainer.model.state_dict().values()]))
    assert torch.equal(*ends)
    assert solved[1] == solved[0] - 1


def test_a_given_answer_is_the_follower_of_a_round(tmp_path, make_trainer, pairs, policy_path, counted):
    data = with_stored_scores(make_trainer(radius=2.0, **MARGIN), pairs)
    given = {"all": worst_case(stored_gaps(data, 0.1), 2.0, window=(-20, 20))}
    settings = {"radius": 2.0, "max_steps": 1, "bf16": False, "per_device_train_batch_size": 8, **MARGIN}
    log = train_leader(
        load_policy(policy_path), data, tmp_path / "policy", settings=settings, extra={}, worst_cases=given
    )
    assert counted == []
    assert log[0]["robust/price"] == given["all"].price


@pytest.mark.parametrize(
    ("names", "count", "said"),
    [
        (["self"], 8, r"worst_cases is of {'self': 8} pairs; allowed: {'all': 8}"),
        ([], 8, r"worst_cases is of {} pairs"),
        (["all"], 7, r"worst_cases is of {'all': 7} pairs; allowed: {'all': 8}"),
    ],
)
def test_an_answer_to_other_pairs_is_refused(make_trainer, names, count, said):
    worst = worst_case(GAPS[:count], 2.0, window=(-20, 20))
    trainer = make_trainer(radius=2.0, more={"worst_cases": dict.fromkeys(names, worst)}, **MARGIN)
    with pytest.raises(InputError, match=said):
        loss_and_gradients(trainer)


def test_an_answer_without_a_follower_is_refused(make_trainer):
    worst = worst_case(GAPS, 2.0, window=(-20, 20))
    with pytest.raises(InputError, match="worst_cases is given with radius 0"):
        make_trainer(radius=0.0, more={"worst_cases": {"all": worst}})
