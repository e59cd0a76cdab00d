"""The embedded world on disk, and the judge who knows its gold reward."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from sgpo.config.world import WorldSettings
from sgpo.demo.shop import ShopWorld
from sgpo.demo.world import GoldJudge, as_messages, prepare_world, world_paths
from sgpo.policy.load import Policy, load_policy
from sgpo.policy.tokens import tokenize_responses
from sgpo.preferences.source import load_pairs, load_prompts
from sgpo.rounds.loop import RoundResult
from tiny_model import generate_responses

SETTINGS = WorldSettings(
    flip_rate=0.2, seed_pairs=20, pool_prompts=30, test_prompts=60, sft_examples=1600, layers=1, hidden=64, heads=2
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("world")
    prepare_world(SETTINGS, path, seed=0)
    return path


@pytest.fixture(scope="module")
def judge(directory):
    return GoldJudge(SETTINGS, directory, seed=0)


@pytest.fixture(scope="module")
def sft_policy(directory):
    return load_policy(str(world_paths(directory).sft))


def result(policy, number=0, pairs=None):
    # Round 0 trained on human pairs.
    return RoundResult(number=number, policy=policy, pairs=pairs or pairs_of([("Hello", "Yes.", "No.", "human")]))


def pairs_of(rows):
    turn = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731 -- one word for one turn
    return Dataset.from_list(
        [
            {"prompt": as_messages(prompt), "chosen": turn(chosen), "rejected": turn(rejected), "source": source}
            for prompt, chosen, rejected, source in rows
        ]
    )


def test_its_files_are_what_the_loop_loads(directory):
    paths, world = world_paths(directory), ShopWorld(flip_rate=0.2)
    pairs, prompts = load_pairs(str(paths.seeds)), load_prompts(str(paths.prompts))
    assert [row[-1]["content"] for row in prompts["prompt"]] == world.prompts(30, 0, "pool")
    assert [row[0]["content"] for row in pairs["chosen"]] == [row["chosen"] for row in world.seed_pairs(20, 0)]


def test_judging_the_sft_model_finds_no_gain_and_no_divergence(judge, sft_policy):
    gold = judge(result(sft_policy)).metrics["gold"]
    assert gold["low"] < 0.5 < gold["high"]
    assert gold["kl"] == pytest.approx(0, abs=1e-4)
    assert gold["prompts"] == 60
    assert "agreement" not in gold


def test_the_same_policy_is_judged_alike_twice_and_from_disk(directory, judge, sft_policy):
    once = judge(result(sft_policy))
    again = GoldJudge(SETTINGS, directory, seed=0)(result(sft_policy))
    assert once == again


def test_the_policy_is_sampled_apart_from_the_baseline(directory, judge, sft_policy):
    samples = judge(result(sft_policy)).samples
    assert any(sample["response"] != sample["baseline"] for sample in samples)


def test_samples_carry_the_rewards_of_the_texts_they_show(judge, sft_policy):
    world = ShopWorld(flip_rate=0.2)
    for sample in judge(result(sft_policy)).samples:
        assert sample["reward"] == world.gold_reward(sample["prompt"], sample["response"])
        assert sample["baseline_reward"] == world.gold_reward(sample["prompt"], sample["baseline"])


def test_agreement_is_the_share_of_self_annotated_pairs_that_gold_orders_alike(judge, sft_policy):
    prompt = ShopWorld().prompts(1, 0, "pool")[0]
    good, bad = "Of course, gladly! I hope this helps you.", "Not you again. Stop wasting my time."
    rows = [(prompt, good, bad, "self")] * 3 + [(prompt, bad, good, "self")]
    rows += [(prompt, good, good, "self")] + [(prompt, bad, good, "human")] * 5
    gold = judge(result(sft_policy, number=1, pairs=pairs_of(rows))).metrics["gold"]
    assert gold["agreement"] == pytest.approx(3.5 / 5)


def test_the_divergence_is_the_sum_over_the_vocabulary_along_sampled_responses(judge, sft_policy):
    """The same divergence by another estimator: KL of the next-token laws, summed over the tokens of responses."""
    model = copy.deepcopy(sft_policy.model)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    sharp = Policy(model, sft_policy.tokenizer, sft_policy.path)
    prompts = [as_messages(text) for text in ShopWorld().prompts(200, 0, "pool")]
    found = []
    for prompt, row in zip(
        prompts, generate_responses(sharp, prompts, n=1, temperature=1.0, seed=5, max_new_tokens=64), strict=True
    ):
        prompt_ids, response_ids = tokenize_responses(sharp.tokenizer, [prompt], [row[0].text])[0]
        ids = torch.tensor([prompt_ids + response_ids])
        with torch.no_grad():
            ours, theirs = (
                one.model(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1].log_softmax(-1)
                for one in (sharp, sft_policy)
            )
        found.append(float((ours.exp() * (ours - theirs)).sum()))
    gold = judge(result(sharp)).metrics["gold"]
    assert gold["kl"] > 1
    assert gold["kl"] == pytest.approx(np.mean(found), rel=0.2)


def test_the_baseline_is_sampled_once_and_kept(directory):
    rows = [json.loads(line) for line in world_paths(directory).baseline.read_text().splitlines()]
    assert len(rows) == 60
    assert np.unique([len(row["responses"]) for row in rows]).tolist() == [2]
