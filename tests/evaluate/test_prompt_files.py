"""Files of answers: one answer without a value is marked in its place, and the others are read."""

import json
import re

import pytest

from refusals import unrefused
from sgpo.evaluate.alpaca import read_annotations, read_instructions
from sgpo.evaluate.prompt_files import (
    NOT_UNICODE,
    Answers,
    by_reason,
    missing,
    read_answers_to,
    read_prompts,
    write_answers_to,
)

TEXTS = ("Name a nice smiley.", "Name a fruit.", "Name a town.", "Name a river.")
PROMPTS = [[{"role": "user", "content": text}] for text in TEXTS]


def write_rows(path, *changes, **common):
    """A file of rows in AlpacaEval's layout; JSON escapes what is not ASCII, also halves of surrogate pairs."""
    rows = [{"instruction": text, "output": f"{text}!", "generator": "mine", **common} for text in TEXTS]
    for row, change in zip(rows, changes, strict=False):
        row.update(change)
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("half", ["Here you go: \ud83d", "\udc00", "a \udf09\ud83c b"])
def test_an_answer_cut_within_a_character_is_none_and_the_others_are_read(half, tmp_path):
    answers = read_answers_to(write_rows(tmp_path / "a.json", {}, {"output": half}), PROMPTS)
    assert answers.texts == ["Name a nice smiley.!", None, "Name a town.!", "Name a river.!"]
    assert answers.finish_reasons == [None, NOT_UNICODE, None, None]
    assert (answers.name, answers.cut, answers.tokens) == ("mine", None, None)


@pytest.mark.parametrize(("name", "places"), [("set.json", ("row 1", "row 0")), ("set.jsonl", ("line 4", "line 2"))])
def test_rows_of_an_evaluation_set_are_named_as_their_file_numbers_them(tmp_path, name, places):
    rows = [{"instruction": "the same"}] * 2
    lines = "\n" + "\n".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(lines if name.endswith("l") else json.dumps(rows))
    said = r"{0} {1}: the \w+ 'the same' is that of {0} {2};".format(re.escape(str(tmp_path / name)), *places)
    assert unrefused(lambda read: read(tmp_path / name), [(read_prompts, said), (read_instructions, said)]) == {}


def test_null_is_no_answer_only_if_the_file_says_why(tmp_path):
    common = {"finish_reason": "stop", "n_tokens": 5}
    filtered = {"output": None, "finish_reason": "content_filter", "n_tokens": None}
    cut = {"finish_reason": "length", "n_tokens": 8}
    path = write_rows(tmp_path / "a.json", filtered, cut, {"output": "\ud83d", "n_tokens": 99}, **common)
    answers = read_answers_to(path, PROMPTS)
    assert answers.texts == [None, "Name a fruit.!", None, "Name a river.!"]
    assert answers.finish_reasons == ["no_answer", "length", NOT_UNICODE, "stop"]
    assert (answers.cut, answers.tokens) == (1, 6.5)

    def read(change):
        return read_answers_to(write_rows(tmp_path / "b.json", {}, change), PROMPTS)

    refused = [({"output": None}, "row 1: 'output' is None"), ({"output": 3, **common}, "row 1: 'output' is 3")]
    assert unrefused(read, refused) == {}


@pytest.mark.parametrize("reason", ["stop", "content_filter", "[/x] odd", ":boom:", ""])
def test_a_reason_that_is_no_failure_counts_as_no_answer_and_keeps_a_text(tmp_path, reason):
    rows = [
        {"output": None, "finish_reason": reason},
        {"finish_reason": reason},
        {"output": None, "finish_reason": "filtered"},
    ]
    answers = read_answers_to(write_rows(tmp_path / "a.json", *rows), PROMPTS[:3])
    assert answers.finish_reasons == ["no_answer", reason, "filtered"]
    assert by_reason(missing(answers)) == {"no_answer": [0], "filtered": [2]}


def test_answers_without_a_text_survive_a_round_trip(tmp_path):
    answers = Answers(
        ["a", None, "é 🌉\u2028", None], "mine", [1, None, 3, 4], ["stop", "refused", "length", NOT_UNICODE]
    )
    assert read_answers_to(write_answers_to(tmp_path / "a.json", PROMPTS, answers), PROMPTS) == answers
    none = Answers([None] * 4, "mine", [None] * 4, ["filtered"] * 4)
    assert read_answers_to(write_answers_to(tmp_path / "b.json", PROMPTS, none), PROMPTS) == none
    assert none.tokens is None


def test_names_and_counts_that_nothing_could_print_or_add_are_refused_by_row(tmp_path):
    def read(change):
        return read_answers_to(write_rows(tmp_path / "a.json", {}, {}, change), PROMPTS)

    cases = [
        ({"generator": ["mine"]}, "'generator' is"), ({"generator": "half \ud83d"}, "'generator' is"),
        ({"finish_reason": "\ud83d"}, "'finish_reason' is"), ({"finish_reason": 3}, "'finish_reason' is 3"),
        ({"n_tokens": 10**400}, "'n_tokens' is 1000"), ({"n_tokens": 2**63}, "'n_tokens' is 92"),
        ({"n_tokens": 1.5}, "'n_tokens' is 1.5"), ({"n_tokens": True}, "'n_tokens' is True"),
    ]  # fmt: skip
    assert unrefused(read, [(change, rf"a\.json row 2: {said}.*; allowed: ") for change, said in cases]) == {}


def test_annotations_of_an_answer_cut_within_a_character_are_those_of_its_file(tmp_path):
    half = {"output": "Here you go: \ud83d"}
    answers = write_rows(tmp_path / "a.json", half)
    judged = {"generator_1": "base", "output_1": "x", "generator_2": "mine", "annotator": "judge", "preference": 1.5}
    rows = [{"instruction": text, "output_2": f"{text}!", **judged} for text in TEXTS]
    rows[0]["output_2"] = half["output"]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    assert read_annotations(tmp_path / "annotations.json", answers=answers).lengths[0] == len(half["output"])


def test_a_row_for_another_prompt_may_hold_half_of_a_surrogate_pair(tmp_path):
    path = write_rows(tmp_path / "a.json", {"instruction": "half \ud83d"})
    assert read_answers_to(path, PROMPTS[1:]).texts == [f"{text}!" for text in TEXTS[1:]]
