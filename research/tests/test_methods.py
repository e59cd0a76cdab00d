"""Methods are recipes of the real loop, and all are tuned with the same budget."""

import math
from dataclasses import replace

import numpy as np
import pytest

from array_worlds import small_world
from sgpo.config import RunConfig, validate
from sgpo.errors import InputError
from sgpo.stats.acceptance import latest_supported
from sgpo.stats.temperature import fit_temperature
from sgpo_research.methods import DEFAULT, METHODS, OWN, Method
from sgpo_research.simulation.leader import Training
from sgpo_research.simulation.rounds import Simulation
from sgpo_research.tuning import HIGHEST_RATE, LOWEST_RATE, TRIALS, deflated_loss, trials_of, tune
from sgpo_research.worlds.arrays import judge

TRAINING = Training(batch_size=16, seed_epochs=2, responses=3)


def recipe_of(method: Method, value: float) -> dict:
    """A recipe with the method's keys, its tuned parameter at a value."""
    recipe = {"output": "run", "model": {"path": "model"}, "data": {"seeds": "seeds.jsonl", "prompts": "prompts.jsonl"}}
    if method.annotator == "reward_model":
        recipe["annotation"] = {"model": "rm"}
    for key, setting in method.recipe.items():
        node = recipe
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        if isinstance(setting, dict):
            setting = {name: value if part == OWN else part for name, part in setting.items()}
        node[last] = value if setting == OWN else setting
    return recipe


def test_every_method_is_a_recipe_that_the_loop_takes():
    for name, method in METHODS.items():
        for value in method.own_values or (math.nan,):
            recipe = validate(RunConfig, recipe_of(method, value), name)
            accept = {"all": "always", "paying": "validated"}.get(method.accept, method.accept)
            assert (bool(recipe.final_epochs), recipe.leader.accept) == (method.human_last, accept), name


def test_every_method_has_the_same_budget_over_the_same_rates():
    for name, method in METHODS.items():
        trials = trials_of(method)
        assert len(trials.learning_rates) == TRIALS, name
        rates = trials.learning_rates.min(), trials.learning_rates.max()
        assert rates == pytest.approx((LOWEST_RATE, HIGHEST_RATE)), name
        if method.own:
            assert set(trials.own) == set(method.own_values), name
            assert len({*zip(trials.learning_rates, trials.own, strict=True)}) == TRIALS, name


def test_the_trial_is_chosen_by_held_out_pairs_and_gold_has_no_say():
    world, method = small_world(), METHODS["cDPO"]
    tuned = tune(world, method, TRAINING, 3)
    simulation = Simulation(world, method, trials_of(method), TRAINING, 3)
    theta = simulation.run()[-1].theta
    best = np.argmin([deflated_loss(row) for row in simulation.gaps(theta)])
    assert tuned.final["win_rate"] == pytest.approx(judge(world.test, theta[best][None]).win_rate[0])
    assert (tuned.final["learning_rate"], tuned.final["own"]) == (
        simulation.trials.learning_rates[best], simulation.trials.own[best],
    )  # fmt: skip
    upside_down = replace(
        world,
        test=replace(world.test, gold=-world.test.gold),
        pools=tuple(replace(pool, gold=-pool.gold) for pool in world.pools),
    )
    other = tune(upside_down, method, TRAINING, 3)
    assert other.final["learning_rate"] == tuned.final["learning_rate"]
    assert other.final["win_rate"] == pytest.approx(1 - tuned.final["win_rate"], abs=1e-9)


def test_deflating_forgives_large_gaps_and_not_small_ones():
    rng = np.random.default_rng(3)
    gaps = rng.normal(size=300)
    gaps = np.where(rng.random(300) < 1 / (1 + np.exp(-gaps)), gaps, -gaps)
    gaps *= fit_temperature(gaps).scale
    honest = np.logaddexp(0, -gaps).mean()
    assert deflated_loss(9 * gaps) == pytest.approx(honest)
    assert deflated_loss(gaps / 9) == pytest.approx(np.logaddexp(0, -gaps / 9).mean())
    assert deflated_loss(gaps / 9) > honest


def test_the_other_criterion_does_not_forgive_inflated_gaps():
    world, method = small_world(), METHODS["iterative DPO"]
    simulation = Simulation(world, method, trials_of(method), TRAINING, 3)
    gaps = simulation.gaps(simulation.run()[-1].theta)
    best = np.argmin(np.logaddexp(0, -gaps).mean(1))
    tuned = tune(world, method, TRAINING, 3, criterion="likelihood")
    assert tuned.final["learning_rate"] == simulation.trials.learning_rates[best]
    with pytest.raises(InputError, match="criterion is 'gold'"):
        tune(world, method, TRAINING, 3, criterion="gold")


def test_the_default_ships_what_is_supported_and_the_sft_policy_otherwise():
    shipped = set()
    for seed in range(6):
        world = small_world("derailing" if seed % 2 else "benign", seed=seed, held_out=80)
        tuned = tune(world, METHODS[DEFAULT], TRAINING, seed)
        simulation = Simulation(world, METHODS[DEFAULT], trials_of(METHODS[DEFAULT]), TRAINING, seed)
        stages = simulation.run()
        trial = int(np.flatnonzero(simulation.trials.learning_rates == tuned.final["learning_rate"])[0])
        gaps = [simulation.gaps(stage.theta)[trial] for stage in stages]
        place = latest_supported(gaps, control=world.held_out.length).place
        assert tuned.final["shipped"] == (-1 if place is None else place)
        theta = np.zeros(world.dimensions) if place is None else simulation.finish(stages[place].theta[trial], trial)
        expected = 0.5 if place is None else judge(world.test, theta[None]).win_rate[0]
        assert tuned.final["win_rate"] == pytest.approx(expected)
        shipped.add(place)
    assert None in shipped
    assert len(shipped) > 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"accept": "never"}, "accept is 'never'"),
        ({"own": "rate"}, "own is 'rate' with own_values"),
    ],
)
def test_a_method_that_cannot_be_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Method("mine", {}, **fields)


def test_values_that_do_not_divide_the_budget_are_refused():
    with pytest.raises(InputError, match="3 values for 8 trials"):
        trials_of(Method("mine", {}, own="a", own_values=(1, 2, 3)))


def test_a_final_dpo_changes_what_is_shipped_and_not_what_is_chosen():
    world = small_world()
    name = "DPO on seeds, human last"
    tuned, plain = (tune(world, METHODS[one], TRAINING, 3) for one in (name, "DPO on seeds"))
    for key in ("learning_rate", "shipped", "held_out_accuracy"):
        assert tuned.final[key] == plain.final[key]
    simulation = Simulation(world, METHODS[name], trials_of(METHODS[name]), TRAINING, 3)
    theta = simulation.run()[-1].theta
    best = int(np.flatnonzero(simulation.trials.learning_rates == tuned.final["learning_rate"])[0])
    finished = simulation.finish(theta[best], best)
    assert tuned.final["win_rate"] == pytest.approx(judge(world.test, finished[None]).win_rate[0])
    # It fits the held-out pairs, on which the policy before it was not trained.
    before, after = (np.logaddexp(0, -simulation.gaps(one[None])).mean() for one in (theta[best], finished))
    assert after < before


def test_the_sft_policy_gets_no_final_dpo():
    world, method = small_world(), METHODS[DEFAULT]
    world = replace(world, held_out=world.held_out._replace(differences=np.zeros_like(world.held_out.differences)))
    tuned = tune(world, method, TRAINING, 3)
    assert (tuned.final["shipped"], tuned.final["win_rate"]) == (-1, pytest.approx(0.5))
