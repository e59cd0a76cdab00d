"""A setting of the follower is described once: recipe, SGPOConfig and command line agree."""

import dataclasses
import warnings

import pytest
from trl import TrlParser

from sgpo.config import FollowerConfig, LeaderConfig, validate
from sgpo.config.game import FollowerSettings
from sgpo.errors import InputError
from sgpo.leader import SGPOConfig
from sgpo.leader.train import build_arguments

FIELDS = {field.name: field for field in dataclasses.fields(FollowerSettings)}
KEYS = {**LeaderConfig.model_fields, **FollowerConfig.model_fields}
# Each out of range, or no choice, or no number.
WRONG = {
    "radius": (-1.0, float("inf"), float("nan"), "much"),
    "space": ("reward",),
    "tangents": (-1, 2.5),
    "window": (["low", "high"],),
    "window_rule": ("auto",),
    "window_margin": (-0.1, float("nan")),
    "window_quantiles": (["low", "high"],),
    "schedule": ("batch",),
    "recent_pairs": (0, -3),
    "solver": ("simplex",),
    "group_size": (0,),
    "step": ("leap",),
    "proximal": (-0.5, float("inf")),
}


def test_every_setting_of_the_follower_is_a_key_of_a_recipe_with_the_same_default(make_arguments):
    arguments = make_arguments(window=[0.0, 1.0])
    for name, field in FIELDS.items():
        assert KEYS[name].default == field.default, name
        assert name == "window" or getattr(arguments, name) == field.default, name


def test_what_a_recipe_does_not_spell_otherwise_has_one_description():
    differing = {name for name, field in FIELDS.items() if KEYS[name].description != field.metadata["help"]}
    assert differing == {"radius", "source_radius", "tangents"}


def test_a_value_out_of_range_is_refused_alike_everywhere(make_arguments):
    assert set(WRONG) == set(FIELDS) - {"source_radius"}
    for name, values in WRONG.items():
        section = FollowerConfig if name in FollowerConfig.model_fields else LeaderConfig
        for value in values:
            with pytest.raises(InputError) as in_code:
                make_arguments(**{name: value})
            with pytest.raises(InputError) as in_recipe:
                validate(section, {name: value}, "recipe")
            assert f"SGPOConfig: {name}" in str(in_code.value), name
            assert f"recipe: {name}" in str(in_recipe.value), name


def test_the_sections_of_a_recipe_are_arguments_of_the_trainer():
    given = {"radius": 0.2, "window_rule": "quantiles", "window_quantiles": [0.1, 0.9], "schedule": "step"}
    follower = validate(FollowerConfig, {**given, "recent_pairs": 7, "group_size": None}, "recipe")
    settings = follower.model_dump(mode="json", exclude={"radius_factor", "radius_grid"})
    arguments = build_arguments({**settings, "bf16": False}, {}, "out")
    for name, value in settings.items():
        assert getattr(arguments, name) == value, name


def test_a_parser_leaves_the_description_as_it_was():
    """Hugging Face's parser writes to the fields of the dataclasses that it reads."""
    before = {name: key.annotation for name, key in FollowerConfig.model_fields.items()}
    TrlParser((SGPOConfig,))
    assert {name: key.annotation for name, key in FollowerConfig.model_fields.items()} == before
    with pytest.raises(InputError, match="recent_pairs is 0"):
        SGPOConfig(output_dir="out", use_cpu=True, bf16=False, schedule="step", recent_pairs=0)


PLAIN = {"output_dir": "out", "use_cpu": True, "bf16": False, "report_to": "none"}


def test_defaults_warn_of_nothing_and_a_deprecated_name_of_the_users_does():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SGPOConfig(**PLAIN).activation_checkpointing is True
        assert SGPOConfig(**PLAIN, activation_checkpointing=False).activation_checkpointing is False
    with pytest.warns(FutureWarning, match="`gradient_checkpointing` is deprecated"):
        assert SGPOConfig(**PLAIN, gradient_checkpointing=False).activation_checkpointing is False


def test_the_old_name_of_an_argument_of_a_recipes_trainer_is_not_ignored():
    for value in (False, True):
        for name in ("gradient_checkpointing", "activation_checkpointing"):
            found = build_arguments({"bf16": False}, {name: value}, "out")
            assert found.activation_checkpointing is found.gradient_checkpointing is value, name
