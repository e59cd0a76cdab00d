"""What a round computes once: the scores of a response by each model, and the worst case."""

import functools
import json
from collections import Counter

import pytest
from datasets import load_from_disk
from transformers import LlamaForCausalLM, LlamaModel

import sgpo.leader.follower
from sgpo.cli import main
from sgpo.leader.trainer import SGPOTrainer
from sgpo.policy.load import load_policy, load_tokenizer
from sgpo.policy.tokens import tokenize_responses


class FirstStep(BaseException):
    """Ends the run where round 1 would take its first optimiser step."""


@pytest.fixture
def passes(monkeypatch) -> dict[str, Counter]:
    """The sequences that pass through each model, by the path it was loaded from, but for those that it writes."""
    found: dict[str, Counter] = {}
    state = {"writing": False, "trainings": 0}
    forward, generate = LlamaModel.forward, LlamaForCausalLM.generate
    train, training_step = SGPOTrainer.train, SGPOTrainer.training_step

    @functools.wraps(forward)
    def counted(model, *args, **kwargs):
        if not state["writing"]:
            sequences = map(without_padding, kwargs["input_ids"].tolist())
            found.setdefault(model.loaded_from, Counter()).update(sequences)
        return forward(model, *args, **kwargs)

    def write(model, *args, **kwargs):
        state["writing"] = True
        try:
            return generate(model, *args, **kwargs)
        finally:
            state["writing"] = False

    def load(path, **options):
        policy = load_policy(path, **options)
        policy.model.base_model.loaded_from = str(path)
        return policy

    def begin(trainer, *args, **kwargs):
        state["trainings"] += 1
        return train(trainer, *args, **kwargs)

    def step(trainer, *args, **kwargs):
        if state["trainings"] == 2:
            raise FirstStep
        return training_step(trainer, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", counted)
    monkeypatch.setattr(LlamaForCausalLM, "generate", write)
    monkeypatch.setattr("sgpo.policy.generators.load_policy", load)
    monkeypatch.setattr(SGPOTrainer, "train", begin)
    monkeypatch.setattr(SGPOTrainer, "training_step", step)
    return found


def without_padding(ids: list[int]) -> tuple[int, ...]:
    """Scoring pads a sequence with its own last token, and training with the pad token, whose id is 0."""
    end = len(ids)
    while not ids[end - 1]:
        end -= 1
    while end > 1 and ids[end - 1] == ids[end - 2]:
        end -= 1
    return tuple(ids[:end])


def sequences(tokenizer, prompts, texts) -> Counter:
    rows = tokenize_responses(tokenizer, prompts, texts)
    return Counter(without_padding(row.prompt_ids + row.response_ids) for row in rows)


def sequences_of_pairs(tokenizer, pairs) -> Counter:
    texts = [row[0]["content"] for side in ("chosen", "rejected") for row in pairs[side]]
    return sequences(tokenizer, pairs["prompt"][:] * 2, texts)


@pytest.mark.parametrize("reference", ["sft", "previous"])
def test_one_policy_pass_and_one_reference_pass_over_each_response_before_training(
    recipe, micro_model, passes, reference
):
    options = ["rounds=1", "generation.shard_size=5", f"reference={reference}"]
    with pytest.raises(FirstStep):
        main(["run", "--config", str(recipe), "--quiet", *options])
    run, tokenizer = recipe.parent / "run", load_tokenizer(micro_model)
    rows = load_from_disk(run / "round-1/responses")
    texts = [text for responses in rows["responses"] for text in responses]
    assert len(texts) == 36
    responses = sequences(tokenizer, [prompt for prompt in rows["prompt"] for _ in range(3)], texts)
    human = sequences_of_pairs(tokenizer, load_from_disk(run / "seed/pairs"))
    human += sequences_of_pairs(tokenizer, load_from_disk(run / "heldout/pairs"))

    # The reference reads the human pairs and the responses, and that is all that it ever does. So does the policy of
    # round 0; round 0 itself was trained from the reference, on the seeds.
    trained = sequences_of_pairs(tokenizer, load_from_disk(run / "seed/pairs"))
    assert passes[micro_model] == human + responses + trained
    assert passes[str(run / "round-0/policy")] == human + responses

    said = json.loads((run / "round-1/pairs/annotation.json").read_text())["scored"]
    recorded = json.loads((run / "manifest.json").read_text())["stages"]
    for who in ("policy", "reference"):
        about = json.loads((run / f"round-1/scores/{who}/about.json").read_text())
        assert said[who] == about["scored"] == recorded[f"round-1/scores/{who}"]["scored"] == 36
        assert len(load_from_disk(run / f"round-1/scores/{who}")) == 36


@pytest.mark.parametrize(
    ("overrides", "solved"),
    [
        ([], 1),
        (["follower.source_radius={human: 0.1, self: 0.05}"], 2),
        (["follower.radius=0"], 0),
        # At the start, and before the second epoch.
        (["follower.schedule=epoch", "leader.epochs=2"], 2),
        (["follower.radius=validated", "follower.radius_grid=[0, 0.05, 0.1]", "leader.accept=validated",
          "data.validation_share=0.5", "leader.batch_size=2"], 2),
    ],
)  # fmt: skip
def test_the_worst_case_of_a_round_is_solved_once_for_the_file_and_the_leader(recipe, monkeypatch, overrides, solved):
    """Once per source with a radius, and per radius that is tried."""
    answers, solve = [], sgpo.leader.follower.solve_worst_case

    def counted(gaps, *arguments, **options):
        answers.append(solve(gaps, *arguments, **options))
        return answers[-1]

    monkeypatch.setattr(sgpo.leader.follower, "solve_worst_case", counted)
    assert main(["run", "--config", str(recipe), "--quiet", "rounds=1", *overrides]) == 0
    assert len(answers) == solved
