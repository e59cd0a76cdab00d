"""A stage is whole or absent, whatever happens while it is written."""

import json

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from sgpo.errors import InputError
from sgpo.store.run_dir import RunDir


class Ball(BaseModel):
    radius: float = 0.01


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seed: int = 0
    follower: Ball = Ball()

    @model_validator(mode="after")
    def _has_a_small_ball(self):
        if self.follower.radius > 1:
            raise ValueError("the radius is too large")
        return self


RECIPE = Recipe()


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run", RECIPE, ["sgpo", "run"])
    yield run
    run.close()


def test_a_finished_stage_is_in_place_and_in_the_manifest(run):
    with run.writing("round-1/pairs") as path:
        path.mkdir()
        (path / "x").write_text("1")
        assert not run.has("round-1/pairs")
    assert (run.root / "round-1/pairs/x").read_text() == "1"
    assert "round-1/pairs" in json.loads((run.root / "manifest.json").read_text())["stages"]


def test_a_stage_that_fails_leaves_nothing(run):
    with pytest.raises(KeyboardInterrupt), run.writing("round-1/pairs") as path:
        path.mkdir()
        raise KeyboardInterrupt
    assert not run.has("round-1/pairs")
    assert list((run.root / "round-1").iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_whole_stages_stay(run):
    with run.writing("seed/pairs") as path:
        path.mkdir()
    (run.root / "round-1").mkdir()
    (run.root / "round-1/.pairs.partial").mkdir()
    run.close()
    again = RunDir(run.root, RECIPE, ["sgpo", "run"])
    assert again.has("seed/pairs")
    assert list((again.root / "round-1").iterdir()) == []
    again.close()


def test_another_config_is_refused_and_the_difference_named(run):
    run.close()
    before = (run.root / "config.yaml").read_text()
    with pytest.raises(InputError, match=r"follower\.radius is 0\.5, was 0\.01"):
        RunDir(run.root, Recipe(follower=Ball(radius=0.5)), [])
    assert (run.root / "config.yaml").read_text() == before


@pytest.mark.parametrize("stored", [{"seed": 0}, {}, {"follower": {}}, {"seed": 0, "follower": {"radius": 0.01}}])
def test_keys_that_a_stored_config_lacks_count_as_their_defaults(run, stored):
    """As in a run directory from before the keys existed; its config.yaml is complete afterwards."""
    run.close()
    (run.root / "config.yaml").write_text(yaml.safe_dump(stored))
    RunDir(run.root, RECIPE, []).close()
    assert yaml.safe_load((run.root / "config.yaml").read_text()) == RECIPE.model_dump()
    (run.root / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(InputError, match=r"another config: follower\.radius is 0\.5, was 0\.01\. Allowed"):
        RunDir(run.root, Recipe(follower=Ball(radius=0.5)), [])


@pytest.mark.parametrize(
    ("stored", "difference"),
    [
        ({"seed": 0, "follower": {"radius": 2.0}}, "follower.radius is 0.01, was 2.0"),
        ({"seed": 0, "follower": {"radius": 0.01}, "gone": 1}, "gone is None, was 1"),
        ([], "is {'seed': 0, 'follower': {'radius': 0.01}}, was []"),
    ],
)
def test_a_stored_config_that_is_no_recipe_any_more_is_compared_as_it_is(run, stored, difference):
    run.close()
    (run.root / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(InputError) as refusal:
        RunDir(run.root, RECIPE, [])
    assert difference in str(refusal.value)


def test_a_damaged_config_is_refused(run):
    run.close()
    for damaged in (b"a: [", b"\xff\xfe"):
        (run.root / "config.yaml").write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            RunDir(run.root, RECIPE, [])


def test_a_directory_in_use_is_refused(run):
    with pytest.raises(InputError, match="in use"):
        RunDir(run.root, RECIPE, [])


def test_a_directory_that_holds_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        RunDir(tmp_path, RECIPE, [])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    path = tmp_path / "run"
    path.write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        RunDir(path, RECIPE, [])


def test_the_manifest_says_what_ran(run):
    manifest = json.loads((run.root / "manifest.json").read_text())
    assert manifest["command"] == ["sgpo", "run"]
    assert manifest["seed"] == 0
    assert {"torch", "transformers", "trl"} <= set(manifest["versions"])
