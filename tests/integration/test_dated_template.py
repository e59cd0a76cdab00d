"""A chat template that renders the time: one run has one time, whenever it goes on."""

import json
from datetime import datetime

import pytest
import yaml
from datasets import load_from_disk
from transformers import AutoTokenizer

from integration.conftest import PAIRS, teach_to_stop
from integration.whole_runs import fingerprint
from sgpo.cli import main
from sgpo.policy.tokens import dated, tokenize_prompts
from sgpo.rounds import responses
from tiny_model import CHAT_TEMPLATE, build_tiny_model, build_tiny_tokenizer

START = "2026-11-27T23:59:58+01:00"
# Microseconds, so that any rendering by the clock would differ from every other one.
DATED = "{{ strftime_now('%d %b %Y %H:%M:%S.%f') }}\n" + CHAT_TEMPLATE
EVALUATIONS = [
    {"kind": "preferences", "pairs": "heldout.jsonl"},
    {"kind": "reward", "function": "words.py:count", "prompts": "prompts.jsonl", "max_new_tokens": 4},
]


@pytest.fixture
def dated_recipe(recipe, tmp_path, monkeypatch):
    """The micro recipe in one round with two evaluations, a dated template, and a clock of runs that stands still."""
    path = build_tiny_model(tmp_path / "model", seed=0)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(path)
    with dated(datetime.fromisoformat(START)):
        teach_to_stop(path, PAIRS)
    (tmp_path / "words.py").write_text(
        "def count(prompts, responses):\n    return [[len(one) for one in row] for row in responses]\n"
    )
    changes = {"rounds": 1, "model": {"path": str(path)}, "evaluate": EVALUATIONS}
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | changes))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sgpo.store.run_dir._now", lambda: START)
    return recipe


@pytest.mark.slow
def test_a_run_that_goes_on_another_day_ends_with_the_same_bytes(dated_recipe, tmp_path, monkeypatch):
    command = ["run", "--quiet", "--config", str(dated_recipe)]
    assert main([*command, "output=whole"]) == 0
    score, times = responses.score_responses, []

    def interrupt(*arguments, **options):
        times.append(1)
        if len(times) == 2:
            raise KeyboardInterrupt
        return score(*arguments, **options)

    with monkeypatch.context() as patch:
        # Between the scores of the policy and those of the reference.
        patch.setattr("sgpo.rounds.responses.score_responses", interrupt)
        assert main([*command, "output=parts"]) == 130
    monkeypatch.setattr("sgpo.store.run_dir._now", lambda: "2026-11-29T06:00:00+00:00")
    assert main([*command, "output=parts"]) == 0
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")
    for run in ("whole", "parts"):
        assert json.loads((tmp_path / run / "manifest.json").read_text())["created"] == START
    # The policy keeps the template itself: whoever uses it later has a date of their own.
    assert AutoTokenizer.from_pretrained(tmp_path / "parts/round-1/policy").chat_template == DATED
    assert len(load_from_disk(tmp_path / "parts/round-1/pairs"))


def test_a_dated_template_renders_the_moment_that_it_is_told_and_no_other_changes():
    tokenizer = build_tiny_tokenizer()
    prompts = [[{"role": "user", "content": "Why?"}]]
    plain = tokenize_prompts(tokenizer, prompts)
    with dated(datetime.fromisoformat(START)):
        assert tokenize_prompts(tokenizer, prompts) == plain
        tokenizer.chat_template = DATED
        first = tokenize_prompts(tokenizer, prompts)
        assert tokenizer.decode(first[0]).startswith("27 Nov 2026 23:59:58.000000\n")
        assert tokenize_prompts(tokenizer, prompts) == first
    assert tokenize_prompts(tokenizer, prompts) != first


def test_a_plan_says_that_the_date_is_that_of_the_start(dated_recipe, capsys):
    assert main(["run", "--dry-run", "--config", str(dated_recipe)]) == 0
    assert "renders the date: all of a run has that of its start" in " ".join(capsys.readouterr().out.split())
