"""`sgpo split` from files to files, and what it says of the rows that it leaves out."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from sgpo.cli import main
from sgpo.config import RunConfig
from sgpo.policy.embed import embed_prompts
from sgpo.policy.load import load_policy
from sgpo.preferences.farthest import farthest_points
from sgpo.preferences.layout import prompt_key
from sgpo.preferences.source import load_pairs, load_prompts, load_rows
from sgpo.preferences.split_files import check_split
from sgpo.rounds.data import resolve_data
from sgpo.store.progress import Reporter
from tiny_model import build_tiny_model
from ultrafeedback import write_ultrafeedback


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def pair(prompt, **changes):
    return {"prompt": prompt, "chosen": "Yes.", "rejected": "No.", **changes}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def split(source, output, *more):
    return main(["split", *([source] if isinstance(source, str) else source), "--output", str(output), *more])


def test_a_copy_of_ultrafeedback_splits_as_the_paper_splits_it(tmp_path, capsys):
    folder = write_ultrafeedback(tmp_path / "ultrafeedback", 60)
    sizes = ["--seeds", "2", "--pools", "8", "20", "25", "--heldout", "5"]
    assert split(str(folder), tmp_path / "a", *sizes) == 0
    content = check_split(tmp_path / "a")
    assert {name: file["rows"] for name, file in content["files"].items()} == {
        "seeds.parquet": 2, "pool-1.parquet": 8, "pool-2.parquet": 20, "pool-3.parquet": 25, "heldout.parquet": 5
    }  # fmt: skip
    prompts = [prompt for name in content["files"] for prompt in load_prompts(tmp_path / "a" / name)["prompt"]]
    assert len({prompt_key(prompt) for prompt in prompts}) == 60
    seeds = load_pairs(tmp_path / "a" / "seeds.parquet")
    assert {"source", "chosen-rating", "chosen-model", "rejected-rating", "rejected-model"} < set(seeds.column_names)
    assert set(seeds["origin"]) == {str(folder)}
    shown = capsys.readouterr().out
    for name, file in content["files"].items():
        assert name in shown and file["sha256"][:16] in shown
    assert "Dropped: none. Not used: 0." in shown

    assert split(str(folder), tmp_path / "b", *sizes) == 0
    assert split(str(folder), tmp_path / "c", *sizes, "--seed", "1") == 0
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()
    assert check_split(tmp_path / "c")["files"]["seeds.parquet"] != content["files"]["seeds.parquet"]


def test_sources_are_mixed_by_the_weights_on_the_command_line(tmp_path, capsys):
    large = write(tmp_path / "large.jsonl", [pair(f"a {i}") for i in range(90)])
    small = write(tmp_path / "small=2.jsonl", [pair(f"b {i}") for i in range(20)])
    assert split([f"{large}=3", small], tmp_path / "out", "--seeds", "40", "--pools", "40") == 0
    content = check_split(tmp_path / "out")
    assert [(source["weight"], source["taken"]) for source in content["sources"]] == [(3.0, 60), (1.0, 20)]
    rows = [*load_rows(tmp_path / "out/seeds.parquet"), *load_rows(tmp_path / "out/pool-1.parquet")]
    assert Counter(row["origin"] for row in rows) == {large: 60, small: 20}
    assert "Mixed: 60 of" in capsys.readouterr().out
    assert split([f"{large}=3", small], tmp_path / "more", "--seeds", "41", "--pools", "40") == 2
    assert "small=2.jsonl' runs out: 21 pairs, its share of 81 (weight 1 of 4), are needed" in capsys.readouterr().err


def test_a_pool_full_of_faults_loses_those_rows_alone_and_the_counts_add_up(tmp_path, capsys):
    good = [pair(f"Question {i}?") for i in range(10)]
    bad = [
        pair("question   3?\n", chosen="Other."),
        pair(""),
        pair(" \t"),
        pair("word " * 20_000),
        pair("Same?", rejected="Yes."),
        pair("Silent?", chosen=""),
        pair("Nothing?", rejected=None),
    ]
    source = write(tmp_path / "pairs.jsonl", [*good[:5], *bad, *good[5:]])
    options = ["--seeds", "3", "--pools", "5", "--max-prompt-chars", "99999"]
    assert split(source, tmp_path / "out", *options) == 0
    content = check_split(tmp_path / "out")
    (used,) = content["sources"]
    assert used["dropped"] == {
        "equal responses": 1, "empty response": 2, "empty prompt": 2, "prompt too long": 1, "duplicate prompt": 1
    }  # fmt: skip
    assert used["rows"] == 17 == sum(used["dropped"].values()) + used["usable"]
    assert content["unused"] == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 equal responses, 2 empty responses, 2 empty prompts, 1 prompt too long, 1 duplicate prompt" in shown


def test_a_damaged_file_is_an_error_and_writes_nothing(tmp_path, capsys):
    source = tmp_path / "pairs.jsonl"
    source.write_bytes(b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "\xff"}\n')
    assert split(str(source), tmp_path / "out", "--seeds", "1") == 2
    assert "pairs.jsonl line 2: not valid UTF-8" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_farthest_seeds_are_those_of_the_hidden_states(tmp_path, tmp_path_factory, capsys):
    model = str(build_tiny_model(tmp_path_factory.mktemp("model") / "model"))
    prompts = [f"{word} {i}?" for word in ("Where is the bridge", "Who") for i in range(15)]
    source = write(tmp_path / "pairs.jsonl", [pair(prompt) for prompt in [*prompts, "x" * 100_000]])
    options = ["--seeds", "6", "--pools", "10", "--heldout", "3", "--selection", "farthest", "--model", model]
    assert split(source, tmp_path / "long", *options) == 2
    assert "row 30: the prompt has" in capsys.readouterr().err
    assert split(source, tmp_path / "out", *options, "--max-prompt-chars", "1000") == 0
    content = check_split(tmp_path / "out")
    held = [prompt[0]["content"] for prompt in load_prompts(tmp_path / "out" / "heldout.parquet")["prompt"]]
    policy = load_policy(model)
    embeddings = embed_prompts(policy, [[{"role": "user", "content": prompt}] for prompt in prompts])
    found = farthest_points(embeddings, 6, exclude=np.array([prompts.index(prompt) for prompt in held]))
    seeds = [prompt[0]["content"] for prompt in load_prompts(tmp_path / "out" / "seeds.parquet")["prompt"]]
    assert seeds == [prompts[row] for row in found.rows]
    assert content["coverage_radius"] == pytest.approx(found.radius)
    assert content["model"] == model
    assert f"Coverage radius: {found.radius:.4f}" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "pairs.jsonl"]


def test_the_command_selects_the_seeds_of_a_recipe_that_names_the_same_model(tmp_path, capsys):
    """Also if the weights were saved in another dtype than a recipe's default, which decides between near distances."""
    saved = load_policy(build_tiny_model(tmp_path / "wide")).model.bfloat16()
    saved.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tmp_path / "wide").save_pretrained(tmp_path / "model")
    model = {"path": str(tmp_path / "model")}
    source = write(tmp_path / "pairs.jsonl", [pair(f"Question {i}?") for i in range(30)])
    options = {"seeds": 6, "pools": [10], "heldout": 3, "selection": "farthest"}
    flags = [word for key, value in options.items() for word in (f"--{key}", str(value).strip("[]"))]
    assert split(source, tmp_path / "command", *flags, "--model", model["path"]) == 0
    data = {"split": {**options, "sources": [{"path": source}]}}
    recipe = RunConfig(output=str(tmp_path / "run"), rounds=1, model=model, data=data)
    run = tmp_path / "run"
    at_once = SimpleNamespace(
        run=SimpleNamespace(root=run), reporter=Reporter(), alone=lambda name, work: work(run / name)
    )
    resolve_data(recipe, at_once)
    ours, theirs = (check_split(folder) for folder in (tmp_path / "command", run / "data"))
    assert ours["coverage_radius"] == theirs["coverage_radius"]
    assert ours["files"] == theirs["files"]


REFUSALS = {
    "farthest without a model": (["--selection", "farthest"], "--selection is farthest without --model"),
    "a model without farthest": (["--model", "m"], "--selection is random with --model"),
    "a dtype without a model": (["--dtype", "bfloat16"], "--dtype goes with --model, which is missing"),
    "a full folder": (["--output", "FULL"], "full is not empty; allowed: an empty folder"),
    "too many": (["--pools", "500"], "runs out: 502 pairs, are needed, and it has 9"),
    "no seeds": (["--seeds", "0"], "split: --seeds is 0; allowed: a whole number >= 1."),
    "a split of a file": (["--split", "test"], "split is 'test', but"),
    "no length": (["--max-prompt-chars", "0"], "split: --max-prompt-chars is 0"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_mistakes_are_named_and_write_nothing(name, tmp_path, capsys):
    more, message = REFUSALS[name]
    source = write(tmp_path / "pairs.jsonl", [pair(f"a {i}") for i in range(9)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    more = [str(tmp_path / "full") if word == "FULL" else word for word in more]
    before = sorted(tmp_path.rglob("*"))
    assert split(source, tmp_path / "out", "--seeds", "2", *more) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_id_that_cannot_be_had_is_one_line(tmp_path, capsys):
    assert split("nobody/has-this=2", tmp_path / "out", "--seeds", "1") == 2
    error = capsys.readouterr().err
    assert "'nobody/has-this' (Hugging Face Hub id" in error and error.count("\n") == 1


def test_arrow_files_split_too(tmp_path):
    Dataset.from_list([pair(f"a {i}") for i in range(9)]).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    assert split(str(file), tmp_path / "out", "--seeds", "9") == 0
    assert len(load_pairs(tmp_path / "out" / "seeds.parquet")) == 9
