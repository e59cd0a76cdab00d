"""A run that was started with version 0.1 can be resumed: config_of_0_1.yaml is what it left."""

import copy
import shutil
from pathlib import Path

import pytest
import yaml

from sgpo.config import RunConfig, validate
from sgpo.errors import InputError
from sgpo.store.run_dir import check_same_config

STORED = Path(__file__).with_name("config_of_0_1.yaml")
RECIPE = {
    "output": "runs/old",
    "seed": 3,
    "rounds": 1,
    "model": {"path": "inputs/sft"},
    "data": {"seeds": "inputs/seeds.jsonl", "prompts": "inputs/prompts.jsonl", "heldout": "inputs/heldout.jsonl"},
    "generation": {"candidates": 4, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 48, "batch_size": 64,
                   "shard_size": 25},
    "follower": {"radius": "measured"},
    "leader": {"beta": 0.5, "learning_rate": 1.5e-4, "seed_learning_rate": 3e-4, "seed_epochs": 2, "batch_size": 16,
               "micro_batch_size": 8, "max_length": 160, "accept": "always"},
    "evaluate": [{"kind": "reward", "prompts": "inputs/test.jsonl", "function": "inputs/reward.py:reward",
                  "max_new_tokens": 48}],
}  # fmt: skip


def changed(**sections):
    content = copy.deepcopy(RECIPE)
    for section, values in sections.items():
        content[section] = {**content.get(section, {}), **values} if isinstance(values, dict) else values
    return validate(RunConfig, content, "recipe.yaml")


def test_the_recipe_that_started_a_run_resumes_it(tmp_path):
    shutil.copy(STORED, tmp_path / "config.yaml")
    check_same_config(tmp_path, changed())


@pytest.mark.parametrize(
    ("sections", "difference"),
    [
        ({"follower": {"radius": 0.01}}, "follower.radius is 0.01, was 'measured'"),
        ({"seed": 4}, "seed is 4, was 3"),
        ({"leader": {"trainer": {"decoupling": 2}}}, "leader.trainer.decoupling is 2, was None"),
    ],
)
def test_another_value_is_refused_and_nothing_else_is_named(tmp_path, sections, difference):
    shutil.copy(STORED, tmp_path / "config.yaml")
    with pytest.raises(InputError) as refusal:
        check_same_config(tmp_path, changed(**sections))
    assert str(refusal.value) == f"{tmp_path} holds a run with another config: {difference}. Allowed: the same " + (
        "values, or another output."
    )


def test_keys_that_an_older_run_did_not_have_count_as_their_defaults(tmp_path):
    """Any key that the recipe leaves at its default may be missing from the stored file."""
    stored, sections = yaml.safe_load(STORED.read_text()), 0
    for name, values in stored.items():
        if not isinstance(values, dict):
            continue
        for key in set(values) - set(RECIPE.get(name, {})):
            older = {**stored, name: {other: value for other, value in values.items() if other != key}}
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
            check_same_config(tmp_path, changed())
        sections += 1
    assert sections == 6
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(RECIPE))
    check_same_config(tmp_path, changed())
