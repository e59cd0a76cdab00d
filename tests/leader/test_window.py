"""Where the window comes from, and that it is said."""

import numpy as np
import pytest

from leader.batches import MARGIN, batch_margins, loss_and_gradients
from sgpo.errors import InputError
from sgpo.leader.follower import choose_window
from sgpo.robust.exact import worst_case

RULES = {
    "min_max": {"window_rule": "min_max", "window_margin": 0.5},
    "quantiles": {"window_rule": "quantiles", "window_quantiles": [0.2, 0.8]},
    "wide quantiles": {"window_rule": "quantiles", "window_quantiles": [0.2, 0.8], "window_margin": 1.0},
}


@pytest.mark.parametrize("space", ["margin", "probability"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_window_follows_its_rule(make_arguments, rule, space):
    gaps = np.random.default_rng(0).normal(size=500)
    points = gaps if space == "margin" else 1 / (1 + np.exp(-gaps))
    args = make_arguments(space=space, tangents=4, **rule)
    tau = rule.get("window_margin", 0.0)
    levels = rule.get("window_quantiles", [0.0, 1.0])
    low, high = np.quantile(points, levels, method="inverted_cdf")
    if space == "probability":
        low, high = max(low - tau, 0) + tau, min(high + tau, 1) - tau
    assert choose_window(args, gaps, None) == pytest.approx((low - tau, high + tau))


def test_quantiles_count_weights(make_arguments):
    args = make_arguments(space="margin", **RULES["quantiles"])
    gaps = np.arange(10.0)
    repeated = choose_window(args, np.repeat(gaps, [5, *[1] * 9]), None)
    assert choose_window(args, gaps, np.array([5.0, *[1.0] * 9])) == repeated
    assert repeated != choose_window(args, gaps, None)


@pytest.mark.parametrize("rule", [RULES["min_max"], RULES["wide quantiles"]], ids=["min_max", "quantiles"])
def test_the_window_is_logged_and_is_the_followers(make_trainer, rule):
    trainer = make_trainer(radius=0.3, space="margin", tangents=0, **rule)
    gaps = batch_margins(trainer).detach().double().numpy()
    trainer.train()
    window = choose_window(trainer.args, gaps, None)
    record = trainer.state.log_history[0]
    assert (record["robust/window_low"], record["robust/window_high"]) == pytest.approx(window, abs=1e-5)
    expected = worst_case(gaps, 0.3, space="margin", window=window, clip=True)
    assert trainer.worst_cases["all"].price == pytest.approx(expected.price, rel=1e-5)


def test_gaps_off_the_window_keep_the_pull_of_dpo_and_are_counted(make_trainer):
    # The margin keeps the ends, which are gaps, off the gaps: rounding would decide whether those are outside.
    rule = {"window_rule": "quantiles", "window_quantiles": [0.3, 0.9], "window_margin": 1e-3}
    trainer = make_trainer(radius=0.2, space="margin", tangents=0, **rule)
    row = int(batch_margins(trainer).argmin())
    loss_and_gradients(trainer)
    outside, (low, high) = trainer._metrics["train"]["robust/outside"][0], trainer.worst_cases["all"].window
    assert outside == pytest.approx(np.mean([not low <= gap <= high for gap in batch_margins(trainer).tolist()]))
    assert outside > 0
    batch = trainer.data_collator([trainer.train_dataset[row]])
    ours = loss_and_gradients(trainer, batch)[1]
    plain = loss_and_gradients(make_trainer(radius=0.0), batch)[1]
    for name, gradient in plain.items():
        np.testing.assert_allclose(ours[name], gradient, atol=1e-6)


@pytest.mark.parametrize("schedule", ["epoch", "step"])
def test_the_window_is_found_again_when_the_follower_answers(make_trainer, schedule):
    trainer = make_trainer(
        radius=0.3, space="margin", tangents=0, schedule=schedule, max_steps=6, per_device_train_batch_size=4,
        learning_rate=1e-2, **RULES["min_max"],
    )  # fmt: skip
    trainer.train()
    highs = [record["robust/window_high"] for record in trainer.state.log_history if "robust/price" in record]
    assert len(set(highs)) > 2


def test_a_window_without_width_is_an_error_that_says_why(make_trainer):
    with pytest.raises(InputError, match=r"finds .* for 8 gaps; allowed: gaps that differ, or a window_margin above 0"):
        make_trainer(radius=0.1, ref_model=None, space="margin", tangents=0, window_rule="min_max").train()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": "explicit"}, "step is 'explicit'; allowed: 'envelope', 'transport' or 'mixture'"),
        ({"schedule": "batch"}, "schedule is 'batch'; allowed: 'round', 'epoch' or 'step'"),
        ({"window_rule": "auto"}, "window_rule is 'auto'"),
        ({"proximal": -1.0, "step": "mixture"}, r"proximal is -1\.0; allowed: a number >= 0"),
        ({"proximal": 1.0}, "proximal is 1.0 with step='envelope'; allowed: 0.0, or step 'mixture'"),
        ({"recent_pairs": 8}, "recent_pairs is 8 with schedule='round'"),
        ({"recent_pairs": 0, "schedule": "step"}, "recent_pairs is 0; allowed: a whole number >= 1"),
        ({"window_margin": 0.1}, "window_margin is 0.1 with window_rule='explicit'"),
        ({"window_margin": -0.1, "window_rule": "min_max"}, "window_margin is -0.1"),
        ({"window_rule": "min_max", **MARGIN}, "window is .* with window_rule='min_max'; allowed: None"),
        ({"window_quantiles": [0.1, 0.9]}, "window_quantiles is .* with window_rule='explicit'"),
        ({"window_quantiles": [0.9, 0.1], "window_rule": "quantiles"}, "two levels"),
        ({"source_radius": {}}, "source_radius is {}; allowed: sources with radii >= 0, or null"),
        ({"source_radius": {"self": -1}}, "source_radius is {'self': -1}; allowed: sources with radii >= 0"),
        ({"source_radius": "0.1"}, "source_radius is '0.1'; allowed: sources with radii >= 0"),
        ({"source_radius": {"self": 0.1}, "loss_type": ["ipo"]}, "loss_type is .* with source_radius"),
        ({"padding_free": True}, "padding_free is True; allowed: False"),
        ({"padding_free": True, "radius": 0.0}, "padding_free is True; allowed: False"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(make_arguments, changes, said):
    with pytest.raises(ValueError, match=said):
        make_arguments(**changes)
