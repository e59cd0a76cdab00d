"""The loop on arrays: losses by their formulas, plain DPO at radius 0, trials that know nothing of each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from array_worlds import small_world
from sgpo.leader.confidence import SmoothingSettings, smoothed_loss
from sgpo.leader.config import SGPOConfig
from sgpo.leader.follower import Follower
from sgpo.leader.pairs import Pairs as TrainingSet
from sgpo.leader.pairs import PairTags
from sgpo.robust.losses import robust_value
from sgpo_research.methods import METHODS, PAPER, PLAIN, Method
from sgpo_research.simulation import losses
from sgpo_research.simulation.adam import Adam
from sgpo_research.simulation.leader import (
    CONFIDENCE_PAIRS,
    CONFIDENCE_QUANTILE,
    CONFIDENCE_WARMUP,
    Training,
    Trials,
    _Loss,
    train,
)
from sgpo_research.simulation.policies import Pairs, annotate, fit_reward_model, human_pairs, join
from sgpo_research.simulation.rounds import Simulation
from sgpo_research.tuning import trials_of

TRAINING = Training(batch_size=16, seed_epochs=2, epochs=1, responses=3)
GAPS = torch.linspace(-3, 3, 13, dtype=torch.float64)


def run(method, *, world=None, trials=None, seed=5):
    trials = trials or Trials(np.array([0.01, 0.1]), np.array([np.nan, np.nan]))
    return Simulation(world or small_world(), method, trials, TRAINING, seed).run()


def ell(x):
    return np.logaddexp(0, -np.asarray(x))


def test_spas_settings_are_the_trainers_defaults():
    """Read from there they would cost every process of the study the import of transformers."""
    defaults = SmoothingSettings()
    ours = (CONFIDENCE_QUANTILE, CONFIDENCE_WARMUP, CONFIDENCE_PAIRS)
    assert ours == (defaults.confidence_quantile, defaults.confidence_warmup, defaults.confidence_pairs)


def test_losses_are_their_formulas():
    x = GAPS.numpy()
    rate = torch.tensor(0.2, dtype=torch.float64)
    np.testing.assert_allclose(losses.dpo(GAPS), ell(x))
    np.testing.assert_allclose(losses.cdpo(GAPS, rate), 0.8 * ell(x) + 0.2 * ell(-x))
    np.testing.assert_allclose(losses.rdpo(GAPS, rate), (0.8 * ell(x) - 0.2 * ell(-x)) / 0.6)
    np.testing.assert_allclose(losses.ipo(GAPS, 0.1, rate), (x / 0.1 - 2.5) ** 2)
    np.testing.assert_allclose(
        losses.spa(GAPS, torch.tensor(0.5), rate), np.where(x <= 0.5, 0.8 * ell(x) + 0.2 * ell(-x), ell(x))
    )


def test_smoothing_is_the_leaders_own():
    rate = torch.full_like(GAPS, 0.3)
    np.testing.assert_allclose(losses.cdpo(GAPS, rate), smoothed_loss(GAPS, rate))


def test_rdpo_is_unbiased_under_flips():
    rate = torch.tensor(0.25, dtype=torch.float64)
    mean = 0.75 * losses.rdpo(GAPS, rate) + 0.25 * losses.rdpo(-GAPS, rate)
    np.testing.assert_allclose(mean, ell(GAPS.numpy()))


def test_dr_dpos_weights_are_the_slope_of_its_soft_minimum_over_the_kept_pairs():
    per_pair = torch.rand(1, 7, dtype=torch.float64, requires_grad=True)
    kept = torch.tensor([[1, 1, 0, 1, 1, 1, 0]], dtype=torch.float64)
    beta = torch.tensor([[0.4]], dtype=torch.float64)
    value = -beta * torch.log((torch.exp(-per_pair / beta) * kept).sum() / kept.sum())
    (slope,) = torch.autograd.grad(value.sum(), per_pair)
    np.testing.assert_allclose(losses.dr_dpo_weights(per_pair, kept, beta), slope)


def test_decoupled_detection_doubts_the_same_pairs_of_a_log_linear_policy():
    """log-softmax of lambda * policy + (1 - lambda) * reference has lambda times the margin."""
    rng = np.random.default_rng(0)
    reference, scores = rng.normal(size=(20, 6)), rng.normal(size=(20, 6))
    mixed = 1.7 * (reference + scores) + (1 - 1.7) * reference
    decoupled = (mixed - reference)[:, 0] - (mixed - reference)[:, 1]
    np.testing.assert_allclose(decoupled, 1.7 * (scores[:, 0] - scores[:, 1]))


def test_adam_is_torchs_with_transformers_schedule():
    rng = np.random.default_rng(1)
    start, targets = rng.normal(size=(2, 3)), rng.normal(size=(12, 2, 3))
    ours = Adam(start, np.array([0.1, 0.02]), 12, warmup=0.25)
    from transformers import get_cosine_schedule_with_warmup

    for trial, rate in enumerate((0.1, 0.02)):
        weight = torch.tensor(start[trial], requires_grad=True)
        optimiser = torch.optim.Adam([weight], lr=rate)
        schedule = get_cosine_schedule_with_warmup(optimiser, 3, 12)
        for target in targets:
            weight.grad = torch.tensor(weight.detach().numpy() - target[trial])
            optimiser.step()
            schedule.step()
        if trial == 0:
            for target in targets:
                ours.step(ours.theta - target)
        np.testing.assert_allclose(ours.theta[trial], weight.detach().numpy(), rtol=1e-6)


def test_radius_zero_is_dpo_at_every_step_in_both_spaces():
    plain = run(METHODS[PLAIN])
    for step in ("envelope", "transport", "mixture"):
        robust = run(replace(METHODS[PAPER], radius=0.0, step=step))
        np.testing.assert_array_equal(robust[-1].theta, plain[-1].theta)
    margin = METHODS["SSAPO margin transport"]
    zero = run(margin, trials=Trials(np.array([0.01, 0.1]), np.zeros(2)))
    np.testing.assert_array_equal(zero[-1].theta, plain[-1].theta)


def test_a_radius_matters():
    assert np.abs(run(replace(METHODS[PAPER], radius=0.2))[-1].theta - run(METHODS[PLAIN])[-1].theta).max() > 1e-3


def test_the_first_step_goes_down_the_gradient_of_the_robust_value():
    """One full-batch step of Adam moves by its rate along the sign of the gradient."""
    rng = np.random.default_rng(2)
    differences = rng.normal(size=(1, 60, 4)).astype(np.float32)
    theta, beta, radius = rng.normal(size=(1, 4)), 0.5, 0.1
    pairs = Pairs(differences, np.ones((1, 60)), np.zeros(60, bool), np.ones(1))
    moved = train(
        theta, pairs, replace(METHODS[PAPER], radius=radius), Trials(np.array([1e-3]), np.array([np.nan])),
        radii=np.array([radius]), beta=beta, batch_size=60, epochs=2, rng=rng,
    )  # fmt: skip
    weight = torch.tensor(theta[0], requires_grad=True)
    value = robust_value(beta * torch.tensor(differences[0]).double() @ weight, radius, space="probability", tangents=6)
    (gradient,) = torch.autograd.grad(value, weight)
    # The first of the two steps is the warm-up's, at rate 0.
    np.testing.assert_allclose(np.sign(theta - moved)[0], np.sign(gradient.numpy()))
    np.testing.assert_allclose(np.abs(theta - moved)[0], 1e-3, rtol=1e-2)


@pytest.mark.parametrize("start", ["tied", "apart"])
@pytest.mark.parametrize("name", ["SSAPO probability", "SSAPO margin"])
@pytest.mark.parametrize("step", ["envelope", "transport", "mixture"])
def test_the_robust_loss_of_a_training_on_arrays_is_the_trainers(tmp_path, name, step, start):
    """Losses to a constant and slopes, before and after the policy moved, also where every gap ties with the price."""
    rng, radii, beta = np.random.default_rng(6), np.array([0.02, 0.3]), 0.5
    at = np.zeros((2, 48)) if start == "tied" else np.clip(rng.normal(size=(2, 48)), -1.9, 9.9)
    method = METHODS[f"{name} {step}"]
    pairs = Pairs(np.zeros((1, 48, 2), np.float32), np.ones((1, 48)), np.zeros(48, bool), np.ones(1))
    simulated = _Loss(method, Trials(np.zeros(2), radii), pairs, at, radii, beta)
    game = {"space": method.space, "window": method.window, "tangents": method.tangents or 0, "step": step}
    for now in (at, at + 0.1 * rng.normal(size=at.shape)):
        slopes = simulated.slope(now, np.ones_like(now), np.arange(48), 0.0)
        for trial, radius in enumerate(radii):
            arguments = SGPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", radius=radius, **game)
            follower = Follower(arguments, TrainingSet(np.arange(48)), at[trial])
            follower.answer()
            gaps = torch.tensor(now, requires_grad=True)
            rows = torch.arange(48)
            loss = follower.loss(gaps[trial], PairTags(row=rows), training=True).loss
            (slope,) = torch.autograd.grad(loss.mean(), gaps)
            # The trainer keeps displacements in float32.
            np.testing.assert_allclose(slope[trial], slopes[trial], rtol=1e-5, atol=1e-8)
            mine = losses.robust(gaps, simulated._answer, rows.numpy(), step)[trial]
            np.testing.assert_allclose(torch.diff(loss.detach()), torch.diff(mine.detach()), atol=1e-6)


def test_trials_know_nothing_of_each_other():
    method = METHODS["SPA"]
    both = run(method, trials=Trials(np.array([0.01, 0.1]), np.array([0.3, 0.1])))
    alone = run(method, trials=Trials(np.array([0.1]), np.array([0.1])))
    np.testing.assert_allclose(both[-1].theta[1], alone[-1].theta[0], atol=1e-4)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_runs_and_the_same_seed_gives_the_same_numbers(method):
    trials = trials_of(method, 2)
    first, again = run(method, trials=trials), run(method, trials=trials)
    assert len(first) == (1 if method.annotator is None else 3)
    np.testing.assert_array_equal(first[-1].theta, again[-1].theta)
    assert np.isfinite(first[-1].theta).all()
    if method.annotator is not None:
        assert (
            run(method, trials=trials, seed=6)[1].agreement != first[1].agreement
        ).any() or method.accept == "paying"


def test_annotation_pairs_the_best_with_the_worst_of_what_the_policy_says():
    world, rng = small_world(), np.random.default_rng(3)
    pool, theta = world.pools[0], rng.normal(size=(2, world.dimensions))
    pairs = annotate(pool, theta, theta, responses=400, temperature=1e4, rng=rng)
    rewards = np.einsum("pmd,td->tpm", pool.features.astype(float), theta)
    gaps = np.einsum("tpd,td->tp", pairs.differences.astype(float), theta)
    np.testing.assert_allclose(gaps, rewards.max(-1) - rewards.min(-1), rtol=1e-4)
    sharp = annotate(pool, 100 * theta, theta, responses=3, temperature=0.1, rng=rng)
    assert sharp.kept.mean() < 0.2
    reversed_order = annotate(pool, theta, -theta, responses=400, temperature=1e4, rng=np.random.default_rng(3))
    assert (np.einsum("tpd,td->tp", reversed_order.differences.astype(float), theta) < 0).all()


def test_the_reward_model_is_the_ridge_optimum():
    pairs = small_world().seeds
    found = fit_reward_model(pairs, 0.1)[0]
    differences = pairs.differences.astype(float)
    gradient = -(expit(-differences @ found) @ differences) / len(differences) + 0.1 * found
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    other = minimize(lambda w: ell(differences @ w).mean() + 0.05 * w @ w, np.zeros(len(found)))
    np.testing.assert_allclose(found, other.x, atol=1e-3)


def test_mixed_in_seeds_keep_dpos_loss():
    """With a radius that stops all learning from self-annotated pairs, the seeds alone train."""
    world, rng = small_world(), np.random.default_rng(4)
    theta = np.zeros((1, world.dimensions))
    own = annotate(world.pools[0], theta, np.ones_like(theta), responses=3, temperature=1.0, rng=rng)
    method = METHODS["SSAPO, seeds mixed in"]
    trials = Trials(np.array([0.05]), np.array([1.0]))
    settings = {"radii": np.array([1.0]), "beta": 0.1, "batch_size": 500, "epochs": 3}
    mixed = train(theta, join(human_pairs(world.seeds), own), method, trials, **settings, rng=np.random.default_rng(5))
    seeds = train(
        theta, human_pairs(world.seeds), METHODS[PLAIN], trials, **{**settings, "radii": np.zeros(1)},
        rng=np.random.default_rng(5),
    )  # fmt: skip
    # Adam takes the scale out of the gradient; what is left is float32.
    np.testing.assert_allclose(mixed, seeds, rtol=1e-3, atol=1e-5)


def test_paying_rounds_start_from_what_was_taken():
    world = small_world("derailing", seed=2, held_out=200, loudness=24.0)
    method = Method("gated", {}, loss="robust", radius=0.01, accept="paying")
    stages = run(method, world=world)
    start = np.zeros_like(stages[0].theta)
    for before, stage in zip([start, *(stage.theta for stage in stages)], stages, strict=False):
        np.testing.assert_array_equal(stage.theta[~stage.accepted], before[~stage.accepted])
        assert (stage.theta[stage.accepted] != before[stage.accepted]).any(axis=-1).all()
    assert not all(stage.accepted.all() for stage in stages)
