"""The shop world: its draws, its reward and its labels."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from sgpo.config import WorldConfig, validate
from sgpo.demo.answers import CLOSINGS, OPENINGS
from sgpo.demo.requests import CLAUSES, FACTS, VALUES, describe, draw_request, parse_request
from sgpo.demo.shop import FACTUAL, GENERAL, SPLITS, ShopWorld, attributes, prefers_first
from sgpo.errors import InputError

PROMPT = (
    "Larkin lamp: red, Oslo, 40 dollars. Morris lamp: blue, Rome, 25 dollars. "
    "Please tell me the colour and the price of the Morris lamp."
)
GOOD = "Of course, gladly! The Morris lamp is blue and costs 25 dollars. I hope this helps you."

# The good answer with one defect each.
SPOILT = {
    "politeness": [
        "Not you again. The Morris lamp is blue and costs 25 dollars. I hope this helps you.",
        "Of course, gladly! The Morris lamp is blue and costs 25 dollars. Stop wasting my time.",
        "The Morris lamp is blue and costs 25 dollars.",
    ],
    "no_repetition": [
        "Of course, gladly! The Morris lamp is blue and costs 25 dollars. "
        "The Morris lamp is blue and costs 25 dollars. I hope this helps you."
    ],
    "length": ["", " ".join([GOOD] * 4)],
    "answers": ["Of course, gladly! The Morris lamp is blue. I hope this helps you."],
    "focus": [
        "Of course, gladly! The Morris lamp is blue, costs 25 dollars and comes from Rome. I hope this helps you.",
        "Of course, gladly! The Larkin lamp is blue and costs 25 dollars. I hope this helps you.",
    ],
    "facts": [
        "Of course, gladly! The Morris lamp is red and costs 25 dollars. I hope this helps you.",
        "Of course, gladly! The Morris lamp is blue and costs 40 dollars. I hope this helps you.",
        "Of course, gladly! The Morris lamp is blue and costs 25 dollars and costs 40 dollars. I hope this helps you.",
    ],
}


def attributes_of(prompt, response):
    return attributes(parse_request(prompt), response)


def test_the_splits_share_no_request_whatever_the_seeds():
    world = ShopWorld()
    drawn = {(split, seed): world.prompts(400, seed, split) for split in SPLITS for seed in (0, 1)}
    for texts in drawn.values():
        assert len(set(texts)) == 400
    by_split = {split: set(drawn[split, 0]) | set(drawn[split, 1]) for split in SPLITS}
    assert len(set.union(*by_split.values())) == sum(map(len, by_split.values()))
    used = {row["prompt"] for row in world.labelled_pairs(200, 3, "seeds")}
    assert not used & (by_split["sft"] | by_split["pool"] | by_split["test"])
    assert not {row["prompt"] for row in world.sft_rows(200, 3)} & (by_split["seeds"] | by_split["test"])


def test_the_same_seed_draws_the_same_world_and_another_seed_another():
    one, same = ShopWorld(facts=0.5, flip_rate=0.2), ShopWorld(facts=0.5, flip_rate=0.2)
    for draw in (
        lambda world, seed: world.prompts(50, seed, "pool"),
        lambda world, seed: world.sft_rows(50, seed),
        lambda world, seed: world.labelled_pairs(50, seed, "seeds"),
    ):
        assert draw(one, 1) == draw(same, 1) != draw(one, 2)


def test_the_draws_of_a_seed_are_what_they_have_always_been():
    """Runs and tables of earlier versions stay comparable: no change may disturb the random streams."""
    world = ShopWorld(facts=0.5, flip_rate=0.2)
    drawn = {
        "ba5b565d8decf6c8": world.sft_rows(50, 3),
        "406ca50a97f94704": world.labelled_pairs(50, 3, "seeds"),
        "261a9ddc0aa7d701": world.prompts(50, 3, "pool"),
        "af1b2c4241eab035": world.prompts(50, 3, "test"),
    }
    for digest, rows in drawn.items():
        assert hashlib.sha256(json.dumps(rows).encode()).hexdigest().startswith(digest)


@pytest.mark.parametrize("distractor", [True, False])
def test_a_request_reads_back_from_its_text(distractor):
    rng = np.random.default_rng(0)
    for request in (draw_request(rng, distractor) for _ in range(300)):
        assert parse_request(request.text) == request
        assert (request.other is not None) == distractor


def test_the_gold_reward_refuses_a_prompt_of_another_world():
    with pytest.raises(InputError, match="What is the time"):
        ShopWorld().gold_reward("What is the time?", GOOD)


def test_a_perfect_answer_has_every_attribute_in_full():
    assert attributes_of(PROMPT, GOOD) == dict.fromkeys(GENERAL, 1.0)


def test_listing_the_facts_in_either_order_is_as_good():
    swapped = "Of course, gladly! The Morris lamp costs 25 dollars and is blue. I hope this helps you."
    assert attributes_of(PROMPT, swapped) == attributes_of(PROMPT, GOOD)


@pytest.mark.parametrize(("name", "response"), [(name, text) for name, texts in SPOILT.items() for text in texts])
@pytest.mark.parametrize("facts", [0.0, 0.5, 1.0])
def test_the_gold_reward_prefers_the_better_answer_attribute_by_attribute(name, response, facts):
    world = ShopWorld(facts=facts)
    assert attributes_of(PROMPT, response)[name] < 1
    if name != "politeness" or facts < 1:
        assert world.gold_reward(PROMPT, response) < world.gold_reward(PROMPT, GOOD)


def test_politeness_counts_opening_and_closing_alike():
    def politeness(opening, closing):
        return attributes_of(PROMPT, f"{opening} The Morris lamp is blue. {closing}")["politeness"]

    for good, bad, other in (
        (OPENINGS.good[0], OPENINGS.bad[0], OPENINGS.neutral[0]),
        (OPENINGS.good[-1], OPENINGS.bad[-1], ""),
    ):
        assert [politeness(opening, "That is the answer.") for opening in (good, other, bad)] == [0.75, 0.5, 0.25]
    assert politeness(OPENINGS.good[1], CLOSINGS.good[1]) == 1.0
    assert politeness(OPENINGS.bad[1], CLOSINGS.bad[1]) == 0.0


def test_the_facts_knob_moves_the_reward_from_manners_to_facts():
    rows = ShopWorld().sft_rows(1500, 0)

    def explained(facts):
        world = ShopWorld(facts=facts)
        rewards = [world.gold_reward(**row) for row in rows]
        found = [attributes_of(**row) for row in rows]
        return {name: np.corrcoef(rewards, [one[name] for one in found])[0, 1] ** 2 for name in ("politeness", "facts")}

    manners, both, facts = explained(0.0), explained(0.5), explained(1.0)
    assert manners["politeness"] > 0.6 and manners["facts"] < 0.2
    assert facts["facts"] > 0.6 and facts["politeness"] < 0.05
    assert manners["politeness"] > both["politeness"] > facts["politeness"]
    assert manners["facts"] < both["facts"] < facts["facts"]


def test_the_knob_interpolates_the_reward_linearly():
    low, middle, high = (ShopWorld(facts=facts).gold_reward(PROMPT, SPOILT["facts"][0]) for facts in (0, 0.25, 1))
    assert middle == pytest.approx(0.75 * low + 0.25 * high)
    assert GENERAL.keys() == FACTUAL.keys()


@pytest.mark.parametrize("distractor", [True, False])
def test_the_corpus_is_of_mixed_quality_and_leaves_room_to_improve(distractor):
    world = ShopWorld(distractor=distractor)
    rows = world.sft_rows(2000, 0)
    means = {name: np.mean([attributes_of(**row)[name] for row in rows]) for name in GENERAL}
    assert 0.3 < means["politeness"] < 0.5
    assert 0.6 < means["facts"] < 0.9
    best = world.gold_reward(PROMPT, GOOD)
    rewards = np.array([world.gold_reward(**row) for row in rows])
    assert (rewards < best - 1).mean() > 0.8
    assert rewards.std() > 0.8


def test_every_answer_of_the_corpus_states_facts_of_the_two_articles_only():
    world = ShopWorld()
    for row in world.sft_rows(300, 1):
        request = parse_request(row["prompt"])
        named = {article.facts[fact] for article in (request.subject, request.other) for fact in FACTS}
        body = row["response"].split(f"The {request.subject.name} ")[1].split(".")[0]
        values = set(body.replace(",", "").split()) - set(["is", "comes", "from", "costs", "dollars", "and"])
        assert values and values <= named


def test_without_a_distractor_a_wrong_fact_is_not_in_the_request():
    rows = ShopWorld(distractor=False).sft_rows(1500, 1)
    wrong = 0
    for row in rows:
        facts, stated = parse_request(row["prompt"]).subject.facts, row["response"].split("The ")[-1]
        for fact, value in facts.items():
            found = [one for one in VALUES[fact] if CLAUSES[fact].format(one) in stated]
            wrong += found not in ([], [value])
            assert len(found) < 2 and (found in ([], [value]) or found[0] not in row["prompt"].split(".")[0])
    assert 0.12 < wrong / (2 * len(rows)) < 0.18


def test_a_reward_comes_with_its_attributes_the_heaviest_first():
    world = ShopWorld(facts=1.0, scale=2.0)
    answers = [GOOD, SPOILT["facts"][0], SPOILT["answers"][0]]
    found = world.rewards([[{"role": "user", "content": PROMPT}]], [answers])
    assert found.pop("reward") == [[world.gold_reward(PROMPT, answer) for answer in answers]]
    assert next(iter(found)) == "facts" and [*found][-1] == "politeness"
    for name, [values] in found.items():
        assert values == [attributes_of(PROMPT, answer)[name] for answer in answers]


def test_the_scale_multiplies_the_reward_and_makes_labels_cleaner():
    def agreement(world):
        pairs = world.labelled_pairs(2000, 0, "seeds")
        gold = [[world.gold_reward(row["prompt"], row[side]) for side in ("chosen", "rejected")] for row in pairs]
        return np.mean([one > other for one, other in gold if one != other])

    assert ShopWorld(scale=3.0).gold_reward(PROMPT, GOOD) == pytest.approx(3 * ShopWorld().gold_reward(PROMPT, GOOD))
    assert agreement(ShopWorld(scale=3.0)) > agreement(ShopWorld()) + 0.05


def test_in_the_demo_a_curt_right_answer_beats_a_polite_one_that_is_wrong_or_incomplete():
    """So that a reader of its samples agrees with gold."""
    recipe = yaml.safe_load((Path(__file__).parents[2] / "recipes/tiny.yaml").read_text())["world"]
    world = ShopWorld(**{name: recipe[name] for name in ("facts", "scale", "distractor")})
    curt = "Not you again. The Morris lamp is blue and costs 25 dollars. Stop wasting my time."
    for name in ("facts", "answers"):
        for answer in SPOILT[name]:
            assert world.gold_reward(PROMPT, curt) > world.gold_reward(PROMPT, answer), answer
    assert world.gold_reward(PROMPT, GOOD) > world.gold_reward(PROMPT, curt)


@pytest.mark.parametrize("flip_rate", [0.0, 0.25])
@pytest.mark.parametrize("difference", [-1.0, 0.0, 2.0])
def test_the_annotator_is_bradley_terry_with_flipped_labels(flip_rate, difference):
    n = 40_000
    share = prefers_first(
        np.full(n, 3.0 + difference), np.full(n, 3.0), flip_rate=flip_rate, rng=np.random.default_rng(1)
    ).mean()
    bradley_terry = 1 / (1 + np.exp(-difference))
    expected = (1 - flip_rate) * bradley_terry + flip_rate * (1 - bradley_terry)
    assert share == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(n))


@pytest.mark.parametrize("split", ["seeds", "test"])
def test_labels_agree_with_gold_as_often_as_bradley_terry_says(split):
    def agreement(world, pairs):
        gaps = np.array(
            [
                world.gold_reward(row["prompt"], row["chosen"]) - world.gold_reward(row["prompt"], row["rejected"])
                for row in pairs
            ]
        )
        return (gaps > 0)[gaps != 0].mean(), (1 / (1 + np.exp(-np.abs(gaps[gaps != 0])))).mean()

    honest, noisy = ShopWorld(), ShopWorld(flip_rate=0.3)
    observed, expected = agreement(honest, honest.labelled_pairs(3000, 0, split))
    assert observed == pytest.approx(expected, abs=0.035)
    observed, expected = agreement(noisy, noisy.labelled_pairs(3000, 0, split))
    assert observed == pytest.approx(0.7 * expected + 0.3 * (1 - expected), abs=0.035)


def test_a_pair_never_holds_the_same_answer_twice():
    assert all(row["chosen"] != row["rejected"] for row in ShopWorld().labelled_pairs(2000, 0, "seeds"))


def test_a_sentence_states_its_facts_in_the_order_given():
    request = parse_request(PROMPT)
    assert describe(request.subject, ("price", "colour", "origin")) == (
        "The Morris lamp costs 25 dollars, is blue and comes from Rome."
    )


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="allowed"):
        ShopWorld().prompts(3, 0, "train")


@pytest.mark.parametrize(
    "value",
    [
        {"facts": 1.5},
        {"facts": float("nan")},
        {"flip_rate": 1.5},
        {"flip_rate": -0.1},
        {"scale": 0},
        {"scale": float("inf")},
    ],
)
def test_a_world_out_of_range_is_refused(value):
    with pytest.raises(InputError, match="allowed"):
        validate(WorldConfig, value, "world")
    with pytest.raises(InputError, match="allowed"):
        ShopWorld(**value)
