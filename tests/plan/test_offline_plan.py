"""A recipe with Hub ids is planned without a network, as far as it says itself what it needs."""

import pytest
import yaml

from sgpo.cli import main

RECIPE = {
    "rounds": 2,
    "model": {"path": "somebody/sft-model", "dtype": "bfloat16", "parameters": 1_241_732_096},
    "data": {
        "seeds": "somebody/preferences",
        "seed_pairs": 2000,
        "prompts": "somebody/prompts",
        "prompts_per_round": [8000, 20_000],
    },
    "hardware": {"devices": 8, "memory_gib": 80, "teraflops": 312},
}


def plan(tmp_path, capsys, recipe):
    """Exit code and words of a dry run. The tests are offline, and nobody has these names in a cache."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "output": str(tmp_path / "run")}))
    code = main(["run", "--config", str(tmp_path / "recipe.yaml"), "--dry-run"])
    said = capsys.readouterr()
    assert not (tmp_path / "run").exists()
    return code, " ".join(said.out.split()), said.err


def test_a_recipe_of_hub_ids_is_planned_at_its_word_and_says_so(tmp_path, capsys):
    code, said, error = plan(tmp_path, capsys, RECIPE)
    assert code == 0, error
    for note in (
        "not checked: somebody/sft-model (the Hub does not answer; the recipe says 1,241,732,096).",
        "not checked: somebody/preferences (the Hub does not answer; the recipe says 2000).",
        "not checked: somebody/prompts (the Hub does not answer; the recipe says 28000).",
    ):
        assert note in said
    assert "2000 human pairs" in said
    assert "8000 prompts, 16000 responses" in said
    assert "20000 prompts, 40000 responses" in said
    assert "Model: 1,241.7 M parameters" in said


def test_a_reward_model_that_the_hub_does_not_give_is_listed_as_not_checked(tmp_path, capsys):
    annotation = {"annotator": "reward_model", "model": "somebody/reward-model"}
    code, said, error = plan(tmp_path, capsys, {**RECIPE, "annotation": annotation})
    assert code == 0, error
    assert "not checked: somebody/reward-model (the Hub does not answer)." in said


@pytest.mark.parametrize(
    ("section", "key", "named"),
    [
        ("model", "parameters", "somebody/sft-model"),
        ("data", "seed_pairs", "somebody/preferences"),
        ("data", "prompts_per_round", "somebody/prompts"),
    ],
)
def test_a_recipe_that_does_not_say_enough_is_refused_without_the_hub(tmp_path, capsys, section, key, named):
    recipe = {**RECIPE, section: {name: value for name, value in RECIPE[section].items() if name != key}}
    code, said, error = plan(tmp_path, capsys, recipe)
    assert (code, said) == (2, "")
    assert named in error
    assert error.startswith("sgpo run: ")
    assert f". To plan without the Hub, state {section}.{key}." in error
    assert ".." not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["typo.jsonl", "typo.jsonl.gz", "mine/typo.json", "typo.parquet", "mine/typo.arrow"])
@pytest.mark.parametrize("key", ["seeds", "prompts", "heldout", "split"])
def test_a_file_that_is_not_there_is_refused_although_the_hub_does_not_answer(tmp_path, capsys, key, name):
    """Its name could be a Hub id, but a run would look for a file; with `split`, behind a source on the Hub."""
    data = {**RECIPE["data"], key: name}
    if key == "split":
        data = {"split": {"sources": [{"path": "somebody/preferences"}, {"path": name}], "pools": [10, 10]}}
    code, said, error = plan(tmp_path, capsys, {**RECIPE, "data": data})
    assert (code, said) == (2, "")
    assert f"{name!r} does not exist; allowed: a file" in error
    assert "To plan without the Hub" not in error
    assert error.endswith("or a Hugging Face Hub id.\n")


def test_of_several_sources_those_on_the_hub_alone_are_not_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a?", "chosen": "a", "rejected": "b"}\n')
    sources = [{"path": "somebody/preferences"}, {"path": str(tmp_path / "mine.jsonl")}]
    recipe = {**RECIPE, "data": {"split": {"sources": sources, "pools": [10, 10]}}}
    code, said, error = plan(tmp_path, capsys, recipe)
    assert code == 0, error
    assert "not checked: somebody/preferences (the Hub does not answer; the recipe says how many pairs)." in said
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a?", "chosen": "a", "rejected": "a"}\n')
    code, _, error = plan(tmp_path, capsys, recipe)
    assert (code, "mine.jsonl: none of the 1 rows is a preference" in error) == (2, True)
