"""Runs and commands that start from a GGUF file: the same as from the folder that holds the same weights."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from integration.conftest import PAIRS, write_jsonl
from integration.whole_runs import fingerprint, planned_and_recorded
from sgpo.cli import main
from tiny_gguf import write_gguf


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "2000")


@pytest.fixture
def gguf_file(micro_model, tmp_path):
    (tmp_path / "gguf").mkdir()
    return write_gguf(micro_model, tmp_path / "gguf" / "micro.gguf")


def run(recipe, model, output, *more):
    content = yaml.safe_load(recipe.read_text()) | {"model": model, "output": str(output), "rounds": 1}
    content["evaluate"] = [{"kind": "preferences", "pairs": content["data"]["heldout"]}]
    recipe.write_text(yaml.safe_dump(content))
    return main(["run", "--config", str(recipe), *more])


def without_fingerprints(rows):
    """They differ: transformers adds a token to the vocabulary of any GGUF file."""
    if not isinstance(rows, list):
        return rows
    return [{key: value for key, value in row.items() if "fingerprint" not in key} for row in rows]


def test_a_run_from_a_file_is_the_run_from_its_folder_and_needs_the_file_once(
    recipe, micro_model, gguf_file, tmp_path, capsys
):
    """The plan reads the file alone; a resumed run has its `base`, and would not notice that the file is gone."""
    model = {"path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    assert run(recipe, model, tmp_path / "run", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "micro.gguf as a model folder in float32" in said and "Note: micro.gguf: 32.0 bits a weight" in said
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()
    assert run(recipe, model, tmp_path / "run", "--quiet") == 0
    planned, recorded = planned_and_recorded(tmp_path / "run")
    assert planned == recorded and planned[0] == "base"
    gguf_file.unlink()
    policy, base = tmp_path / "run" / "round-1" / "policy", tmp_path / "run" / "base" / "config.json"
    policy.rename(tmp_path / "policy")
    before = base.stat().st_mtime_ns
    assert run(recipe, model, tmp_path / "run", "--quiet") == 0
    assert base.stat().st_mtime_ns == before
    assert run(recipe, {"path": micro_model}, tmp_path / "folder", "--quiet") == 0
    found, expected = fingerprint(tmp_path / "run"), fingerprint(tmp_path / "folder")
    del found["base/model.safetensors"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert without_fingerprints(found[name]) == without_fingerprints(value), name


def test_a_file_that_is_refused_leaves_no_run(recipe, gguf_file, tmp_path, capsys):
    gguf_file.write_bytes(gguf_file.read_bytes()[:-100])
    model = {"path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    assert run(recipe, model, tmp_path / "run") == 2
    assert "micro.gguf' (file, which must be complete) cannot be loaded" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert run(recipe, {**model, "adapter": "mine"}, tmp_path / "run") == 2
    assert "model.adapter is given with model.gguf_file" in capsys.readouterr().err
    assert run(recipe, {"gguf_file": gguf_file.name}, tmp_path / "run") == 2
    assert "model.path is missing" in capsys.readouterr().err


def test_evaluation_training_and_splits_read_a_file_as_its_folder(micro_model, gguf_file, tmp_path, capsys):
    pairs, path = write_jsonl(tmp_path / "pairs.jsonl", PAIRS), str(gguf_file.parent)
    own = {"--gguf-file": ["--gguf-file", gguf_file.name], "--gguf_file": ["--gguf_file", gguf_file.name]}
    evaluating = ["eval", "preferences", "--pairs", pairs, "--reference", micro_model, "--json", "--policy"]
    results = []
    for model, more in ((micro_model, []), (path, own["--gguf-file"])):
        assert main([*evaluating, model, *more]) == 0
        results.append({key: value for key, value in json.loads(capsys.readouterr().out).items() if key != "policy"})
    assert results[0] == results[1]
    training = ["train", "--dataset_name", pairs, "--use_cpu", "--max_steps", "1", "--report_to", "none", "--bf16", "0"]
    for model, name, more in ((micro_model, "a", []), (path, "b", own["--gguf_file"])):
        line = ["--dataloader_pin_memory", "0", "--output_dir", str(tmp_path / name), "--model_name_or_path", model]
        assert main([*training, *line, *more]) == 0
    weights = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    assert all(weight.equal(weights[1][name]) for name, weight in weights[0].items())
    splitting = ["split", pairs, "--seeds", "4", "--pools", "4", "--selection", "farthest", "--model"]
    for model, name, more in ((micro_model, "c", []), (path, "d", own["--gguf-file"])):
        assert main([*splitting, model, "--output", str(tmp_path / name), *more]) == 0
    files = [json.loads((tmp_path / name / "split.json").read_text())["files"] for name in "cd"]
    assert files[0] == files[1]
    # All three took the same conversion.
    assert len([each for each in Path(tmp_path, "cache", "sgpo-gguf").iterdir() if each.is_dir()]) == 1


def test_flags_that_a_file_does_not_go_with_are_refused(gguf_file, tmp_path, capsys):
    pairs = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    for arguments, said in (
        (["split", pairs, "--pools", "4", "--output", "x", "--gguf-file", "a"], "--gguf-file goes with --model"),
        (["eval", "alpaca", "--annotations", "a.json", "--gguf-file", "a"], "--gguf-file is given with --annotations"),
        (
            ["train", "--dataset_name", pairs, "--use_cpu", "--model_name_or_path", str(gguf_file.parent),
             "--gguf_file", "other.gguf", "--output_dir", str(tmp_path / "out")],
            "has no file 'other.gguf'; allowed: micro.gguf",
        ),
    ):  # fmt: skip
        assert main(arguments) == 2
        assert said in capsys.readouterr().err, said
