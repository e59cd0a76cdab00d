"""A stage is whole or absent, whatever happens while it is written."""

import errno
import json
import os
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from sgpo.errors import InputError
from sgpo.store.records import Manifest
from sgpo.store.run_dir import RunDir, start_of


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
    for number, name in enumerate(("notes.txt", ".download.partial", ".lock.txt")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text("mine")
        (folder / ".lock").touch()
        with pytest.raises(InputError, match="holds no run"):
            RunDir(folder, RECIPE, [])
        assert {path.name for path in folder.iterdir()} == {name, ".lock"}


@pytest.mark.parametrize("writes", [0, 1])
def test_a_start_that_finds_no_room_goes_on_once_there_is_some(tmp_path, monkeypatch, writes):
    """Whichever file it cannot write, config.yaml or manifest.json; also in the same process."""
    done = []

    def replace(source, target, replace=os.replace):
        if len(done) == writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)
        done.append(Path(target).name)

    with monkeypatch.context() as patch:
        patch.setattr("sgpo.store.files.os.replace", replace)
        with pytest.raises(OSError, match="No space left") as found:
            RunDir(tmp_path / "run", RECIPE, [])
    assert found.traceback, "which holds what the start had opened"
    assert done == ["config.yaml", "manifest.json"][:writes]
    RunDir(tmp_path / "run", RECIPE, ["sgpo", "run"]).close()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "config.yaml", "manifest.json"}
    assert json.loads((tmp_path / "run/manifest.json").read_text())["command"] == ["sgpo", "run"]


@pytest.mark.parametrize(
    "left", [[".lock"], [".lock", ".config.yaml.partial"], [".lock", f".config.yaml.{10**9}.partial"]]
)
def test_a_start_that_was_killed_before_its_config_was_written_is_no_obstacle(tmp_path, left):
    for name in left:
        (tmp_path / name).touch()
    RunDir(tmp_path, RECIPE, []).close()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.yaml", "manifest.json"}


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


def test_the_manifest_keeps_its_keys_and_their_order_and_what_a_newer_version_has_added(run):
    path = run.root / "manifest.json"
    with run.writing("seed/pairs", {"rows": 8}) as place:
        place.mkdir()
    content = json.loads(path.read_text())
    assert list(content) == ["sgpo", "command", "created", "seed", "versions", "stages"]
    assert list(content["stages"]["seed/pairs"]) == ["seconds", "finished", "rows"]
    content |= {"host": "a"}
    content["stages"]["seed/pairs"]["seconds"] = 12.34
    del content["versions"]
    path.write_text(json.dumps(content))
    run.close()
    again = RunDir(run.root, RECIPE, [])
    with again.writing("round-0/policy") as place:
        place.mkdir()
    again.close()
    content["stages"]["round-0/policy"] = json.loads(path.read_text())["stages"]["round-0/policy"]
    assert path.read_text() == json.dumps(content, indent=2) + "\n"
    assert again.seconds("seed/") == 12.3


def test_a_damaged_manifest_is_refused_and_its_key_named(run):
    run.close()
    (run.root / "manifest.json").write_text(json.dumps({"stages": {"seed/pairs": {"seconds": "long"}}}))
    with pytest.raises(InputError, match=r'manifest\.json: stages\.seed/pairs\.seconds is "long"'):
        RunDir(run.root, RECIPE, [])


def test_the_start_of_a_run_is_in_its_manifest_and_stays(run, monkeypatch):
    started = start_of(run.root)
    assert started.isoformat() == json.loads((run.root / "manifest.json").read_text())["created"]
    assert started.utcoffset() is not None
    run.close()
    monkeypatch.setattr("sgpo.store.run_dir._now", lambda: "2031-01-02T03:04:05+09:00")
    RunDir(run.root, RECIPE, []).close()
    assert start_of(run.root) == started
    assert start_of(run.root / "new").isoformat() == "2031-01-02T03:04:05+09:00"
    Manifest(created="yesterday").write(run.root / "manifest.json")
    with pytest.raises(InputError, match=r"manifest\.json: created is 'yesterday'; allowed: a time, such as 2031"):
        start_of(run.root)
