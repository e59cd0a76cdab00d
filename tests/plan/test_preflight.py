"""What a plan refuses or notes of the model and the rows of a recipe, as they will be used."""

import gzip
import json

import pytest
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sgpo.cli import main
from tiny_model import CHAT_TEMPLATE, build_tiny_model

LONG = {
    "prompt": [{"role": "user", "content": "bridge " * 150}],
    "chosen": [{"role": "assistant", "content": "It is long."}],
    "rejected": [{"role": "assistant", "content": "No."}],
}
SYSTEM = {
    "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
    "chosen": [{"role": "assistant", "content": "A mason."}],
    "rejected": [{"role": "assistant", "content": "No."}],
}
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}"
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"Who built bridge {row}?"}],
        "chosen": [{"role": "assistant", "content": f"Mason {row}."}],
        "rejected": [{"role": "assistant", "content": "Nobody."}],
    }
    for row in range(12)
]
PROMPTS = [{"prompt": [{"role": "user", "content": f"{row}?"}]} for row in range(6)]
FILES = {"seeds": PAIRS, "heldout": PAIRS[:4], "evaluated": PAIRS[:5], "prompts": PROMPTS}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(build_tiny_model(folder / "nosys"))
    tokenizer.chat_template = NO_SYSTEM + CHAT_TEMPLATE
    tokenizer.save_pretrained(folder / "nosys")
    build_tiny_model(folder / "plain")
    return folder


@pytest.fixture
def plan(tmp_path, models, capsys, monkeypatch):
    """Plans a recipe with other rows in some of its files; returns the exit code and what was said."""
    monkeypatch.setenv("COLUMNS", "2000")

    def write(name, rows):
        # Empty lines are no rows, and count as lines.
        (tmp_path / f"{name}.jsonl").write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / f"{name}.jsonl")

    def run(model="plain", changed=None, overrides=(), files=None):
        paths = {name: write(name, rows) for name, rows in {**FILES, **(changed or {})}.items()} | (files or {})
        content = {
            "output": str(tmp_path / "run"),
            "rounds": 1,
            "model": {"path": str(models / model)},
            "data": {"seeds": paths["seeds"], "heldout": paths["heldout"], "prompts": paths["prompts"]},
            "evaluate": [{"kind": "preferences", "pairs": paths["evaluated"]}],
            "generation": {"max_new_tokens": 8},
            "leader": {"max_length": 128, "batch_size": 4},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        code = main(["run", "--dry-run", "--config", str(tmp_path / "recipe.yaml"), *overrides])
        said = capsys.readouterr()
        return code, said.err or said.out

    return run


def placed(rows, place, row):
    return [*rows[:place], row, *rows[place:]]


@pytest.mark.parametrize("name", ["seeds", "heldout", "evaluated"])
def test_a_pair_that_could_not_be_scored_is_refused_by_file_and_line(plan, name):
    for model, row, why in [
        ("plain", LONG, "the prompt has "),
        ("plain", {**SYSTEM, "rejected": [{"role": "assistant", "content": "bridge " * 300}]}, None),
        ("nosys", SYSTEM, "the chat template refuses its turns (system, user, assistant): no system turn here."),
    ]:
        code, said = plan(model, {name: placed(FILES[name], 3, row)})
        if why is None:
            # Only a prompt must fit: a response is cut at max_length.
            assert code == 0, said
        else:
            assert code == 2
            assert f"{name}.jsonl line 5: {why}" in said
            assert said.count("\n") == 1


def test_a_pair_that_a_run_does_not_draw_is_no_obstacle_and_one_it_draws_has_the_line_of_the_file(plan):
    lines = []
    for place in range(12):
        code, said = plan("plain", {"seeds": placed(PAIRS, place, LONG)}, ["data.seed_pairs=6"])
        if code:
            assert f"seeds.jsonl line {place + 2}: " in said
            lines.append(place)
    assert 0 < len(lines) < 12


def test_rows_are_named_as_each_kind_of_file_numbers_them(plan, tmp_path):
    rows = placed(PAIRS, 2, LONG)
    files = {kind: tmp_path / f"mine{kind}" for kind in (".json", ".parquet", ".jsonl.gz", "")}
    files[".json"].write_text(json.dumps(rows))
    Dataset.from_list(rows).to_parquet(files[".parquet"])
    Dataset.from_list(rows).save_to_disk(files[""])
    with gzip.open(files[".jsonl.gz"], "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for kind, place in [(".json", "row 2"), (".parquet", "row 2"), ("", "row 2"), (".jsonl.gz", "line 3")]:
        code, said = plan(files={"heldout": str(files[kind])})
        assert (code, f"{files[kind]} {place}: the prompt has" in said) == (2, True), said


def test_a_prompt_that_the_template_refuses_is_named_before_the_run(plan):
    code, said = plan("nosys", {"prompts": placed(PROMPTS, 4, {"prompt": SYSTEM["prompt"]})})
    assert (code, "prompts.jsonl line 6: the chat template refuses its turns (system, user)" in said) == (2, True)


def test_pairs_with_the_end_token_in_their_text_are_counted_by_file(plan):
    rows = [
        {**row, "chosen": [{"role": "assistant", "content": f"Mason {place}.<|im_end|>"}]}
        for place, row in enumerate(PAIRS[:3])
    ]
    code, said = plan("plain", {"seeds": PAIRS[:5] + rows})
    assert code == 0
    assert "3 of 8 pairs hold the end token as text (the first: " in said
    assert "seeds.jsonl line 7): the template adds it" in said


def test_a_model_whose_responses_would_not_end_is_refused_where_it_generates(plan, models):
    build_tiny_model(models / "endless")
    tokenizer = AutoTokenizer.from_pretrained(models / "endless")
    tokenizer.eos_token = "<|pad|>"
    tokenizer.save_pretrained(models / "endless")
    GenerationConfig(eos_token_id=0).save_pretrained(models / "endless")
    code, said = plan("endless")
    assert (code, "closes a response with '<|im_end|>' (2), and generation ends only at ['<|pad|>']" in said) == (
        2,
        True,
    )
    code, said = plan("endless", overrides=["rounds=0"])
    assert (code, "none would end" in said) == (0, True)
    GenerationConfig(eos_token_id=[0, 2]).save_pretrained(models / "endless")
    code, said = plan("endless")
    assert (code, "closes" in said) == (0, False)


def test_a_model_without_some_of_its_weights_or_rows_is_refused_before_the_run(plan, models):
    model = AutoModelForCausalLM.from_pretrained(build_tiny_model(models / "torn"))
    weights = {name: value for name, value in model.state_dict().items() if "layers.1" not in name}
    model.save_pretrained(models / "torn", state_dict=weights)
    code, said = plan("torn")
    assert (code, "torn' lacks 9 of its weights" in said) == (2, True)
    build_tiny_model(models / "small")
    tokenizer = AutoTokenizer.from_pretrained(models / "small")
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(models / "small")
    code, said = plan("small")
    assert (code, "beyond the 384 rows of the embedding (1, such as 384 ('<|new|>'))" in said) == (0, True)
    uses = "uses the id 384 ('<|new|>'), and the embedding has 384 rows"
    new = {
        "seeds": PAIRS[0] | {"chosen": [{"role": "assistant", "content": "<|new|>"}]},
        "prompts": {"prompt": "<|new|>?"},
    }
    for name, row in new.items():
        code, said = plan("small", {name: placed(FILES[name], 3, row)})
        assert (code, f"{name}.jsonl line 5 {uses}" in said) == (2, True), said
    tokenizer.pad_token = "<|new|>"
    tokenizer.save_pretrained(models / "small")
    code, said = plan("small")
    assert (code, uses in said) == (2, True)
