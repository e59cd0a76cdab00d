"""Radii that are found in each round, and rounds that are rejected."""

import json

import numpy as np
import pytest
from datasets import load_from_disk
from scipy.stats import wasserstein_distance

from sgpo.cli import main
from sgpo.leader.scores import stored_gaps
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_responses
from sgpo.robust.link import sigmoid

# Four seeds stay: two steps of two pairs, the first of which warms up.
SHARE = ["data.validation_share=0.5", "leader.batch_size=2"]


def run(recipe, *overrides):
    assert main(["run", "--config", str(recipe), "--quiet", *SHARE, *overrides]) == 0
    return recipe.parent / "run"


def metrics_of(folder, number):
    return json.loads((folder / f"round-{number}/metrics.json").read_text())


def validation_gaps(folder, number, beta=0.1):
    """Gaps of the validation pairs under a round's policy, from scratch."""
    pairs = load_from_disk(folder / "validation/pairs")
    policy = load_policy(folder / f"round-{number}/policy")
    sides = [
        score_responses(policy, pairs["prompt"][:], [row[0]["content"] for row in pairs[side]]).logps
        for side in ("chosen", "rejected")
    ]
    chosen, rejected = sides[0] - pairs["ref_chosen_logps"][:], sides[1] - pairs["ref_rejected_logps"][:]
    return beta * (chosen - rejected)


def test_the_measured_radius_is_the_distance_of_human_and_own_gaps(recipe):
    folder = run(recipe, "follower.radius=measured", "follower.radius_factor=0.5")
    seeds, validation = (load_from_disk(folder / name)["prompt"][:] for name in ("seed/pairs", "validation/pairs"))
    assert (len(seeds), len(validation)) == (4, 4)
    assert not {str(prompt) for prompt in seeds} & {str(prompt) for prompt in validation}
    for number in (1, 2):
        pairs = load_from_disk(folder / f"round-{number}/pairs")
        own = stored_gaps(pairs, 0.1)[np.array(pairs["source"]) == "self"]
        expected = 0.5 * wasserstein_distance(sigmoid(validation_gaps(folder, number - 1)), sigmoid(own))
        assert metrics_of(folder, number)["follower"]["radius"] == pytest.approx(expected, abs=1e-6)


def test_a_validated_radius_is_the_policy_of_one_of_the_grid_and_no_trial_is_left(recipe):
    folder = run(recipe, "follower.radius=validated", "follower.radius_grid=[0, 0.05]", "rounds=1")
    decision = metrics_of(folder, 1)["decision"]
    assert [one["radius"] for one in decision["tried"]] == [0.0, 0.05]
    assert not (folder / "round-1/trials").exists()
    fixed = recipe.parent / "fixed"
    taken = decision["place"] is not None
    radius = decision["radius"] if taken else 0
    run(recipe, f"follower.radius={radius}", "leader.accept=validated", "rounds=1", f"output={fixed}")
    ours, theirs = (load_policy(place / "round-1/policy").model.state_dict() for place in (folder, fixed))
    assert all(ours[name].equal(theirs[name]) for name in ours)
    before = validation_gaps(folder, 0)
    assert decision["accuracy_before"] == pytest.approx(np.mean((before > 0) + 0.5 * (before == 0)))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["follower.radius=validated", "leader.accept=supported"], "The same pairs would choose twice"),
        (
            ["follower.radius=measured", "data.validation_share=0"],
            "data.validation_share is 0.0 with follower.radius='measured'",
        ),
        (["data.validation_share=0.5"], "allowed: a share > 0 if one of them needs validation pairs, else 0 or null"),
        (["follower.radius=found"], "follower.radius"),
        (["follower.radius_grid=[0.1]"], "allowed: radii with 0 (plain DPO) among them"),
    ],
)
def test_what_cannot_be_found_is_refused(recipe, capsys, overrides, said):
    assert main(["run", "--config", str(recipe), "--quiet", *overrides]) == 2
    assert said in capsys.readouterr().err
