"""The embedded world on disk: files that any recipe can name."""

import numpy as np
import pytest

from sgpo.config import EvaluateConfig, RunConfig, WorldConfig, validate
from sgpo.demo.shop import ShopWorld
from sgpo.demo.world import WorldFiles, prepare_world
from sgpo.errors import InputError
from sgpo.policy.load import load_policy
from sgpo.preferences.annotators.function import FunctionAnnotator
from sgpo.preferences.source import load_pairs, load_prompts

SETTINGS = WorldConfig(
    facts=0.25, flip_rate=0.2, seed_pairs=20, heldout_pairs=15, pool_prompts=30, test_prompts=10, sft_examples=320,
    layers=1, hidden=32, heads=2,
)  # fmt: skip
WORLD = ShopWorld(facts=0.25, flip_rate=0.2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return prepare_world(SETTINGS, tmp_path_factory.mktemp("world"), seed=3)


def texts(rows, column):
    return [messages[-1]["content"] for messages in rows[column]]


def test_its_files_are_what_the_loop_loads(files):
    for path, split, count in ((files.seeds, "seeds", 20), (files.heldout, "test", 15)):
        pairs, drawn = load_pairs(str(path)), WORLD.labelled_pairs(count, 3, split)
        for column in ("prompt", "chosen", "rejected"):
            assert texts(pairs, column) == [row[column] for row in drawn]
    for path, split, count in ((files.prompts, "pool", 30), (files.test, "test", 10)):
        assert texts(load_prompts(str(path)), "prompt") == WORLD.prompts(count, 3, split)
    assert load_policy(str(files.sft)).context == SETTINGS.max_length


def test_nothing_that_is_evaluated_on_is_trained_on(files):
    trained = {row["prompt"] for row in WORLD.sft_rows(320, 3)}
    trained |= {*texts(load_pairs(str(files.seeds)), "prompt"), *texts(load_prompts(str(files.prompts)), "prompt")}
    assert not trained & {
        *texts(load_pairs(str(files.heldout)), "prompt"), *texts(load_prompts(str(files.test)), "prompt"),
    }  # fmt: skip


def test_its_reward_file_is_the_gold_reward_for_annotation_and_evaluation_alike(files):
    function = f"{files.reward}:reward"
    EvaluateConfig(kind="reward", prompts=str(files.test), function=function)
    prompts = load_prompts(str(files.test))["prompt"][:]
    responses = [["Of course, gladly! I hope this helps you.", f"The {place}."] for place in range(len(prompts))]
    ranking = FunctionAnnotator(function)(prompts, responses)
    expected = [
        WORLD.gold_reward(messages[-1]["content"], text)
        for messages, row in zip(prompts, responses, strict=True)
        for text in row
    ]
    np.testing.assert_array_equal(ranking.rewards, expected)


def test_the_same_seed_writes_the_same_bytes(files, tmp_path):
    again = prepare_world(SETTINGS, tmp_path, seed=3)
    written = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert {path.parts[0] for path in written} == {path.name for path in again}
    for path in written:
        assert (tmp_path / path).read_bytes() == (files.sft.parent / path).read_bytes(), path


def test_progress_counts_the_steps_of_the_sft(tmp_path):
    seen = []
    prepare_world(
        SETTINGS.model_copy(update={"sft_examples": 48}), tmp_path, seed=0, progress=lambda *step: seen.append(step)
    )
    assert seen == [(step, 3) for step in range(1, 4)]
    assert WorldFiles.of(tmp_path).reward.is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"path": "mine"}}, "model.path is given with a world"),
        ({"data": {"seeds": "mine.jsonl"}}, "data.seeds is given with a world"),
        ({"data": {"heldout": "mine.jsonl"}}, "data.heldout is given with a world"),
        ({"data": {"split": {"sources": [{"path": "a"}], "pools": [1] * 3}}}, "data.split is given with a world"),
        ({"generation": {"max_new_tokens": 160}}, r"is 160; allowed: less than world.max_length \(160\)"),
        ({"world": {"test_responses": 2}}, "world: test_responses is 2, .*allowed: world.test_prompts alone"),
        ({"world": {"facts": 1.5}}, "world.facts is 1.5"),
        (
            {"world": {"max_length": 79}},
            r"world.max_length is 79; allowed: greater than or equal to 80",
        ),
        (
            {"evaluate": [{"kind": "reward", "name": "gold", "prompts": "p", "function": "f:f"}]},
            "evaluate has 'gold', the name of the world's own",
        ),
        ({"world": None}, "model.path is missing"),
    ],
)
def test_a_recipe_that_does_not_go_with_its_world_is_refused(changes, message):
    recipe = {"output": "run", "world": {}, "generation": {"max_new_tokens": 64}}
    validate(RunConfig, recipe, "recipe")
    with pytest.raises(InputError, match=message):
        validate(RunConfig, recipe | changes, "recipe")
