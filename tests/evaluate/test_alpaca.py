"""AlpacaEval's files: what is written is what its program reads, and what it writes is checked row by row."""

import json

import numpy as np
import pytest

from evaluate.alpaca_files import annotation_rows, gamed_rows, write_annotations, write_gamed
from sgpo.errors import InputError
from sgpo.evaluate.alpaca import Instructions, read_annotations, read_instructions, write_model_outputs
from sgpo.evaluate.gamed import read_gamed
from sgpo.evaluate.prompt_files import read_answers_to

# Spaces at the ends, quotes, a line separator and characters beyond the first plane: all must survive.
TEXTS = ["How do tides work? ", 'Say "naïve" twice.\n\n', "Wie heißt\u2028das Tier? 🦔", "Name three rivers\tof Peru."]


@pytest.fixture
def asked():
    return Instructions(list(TEXTS), ["helpful", "oasst", "koala", "vicuna"])


def verdicts(preferences=(1.25, 2, None, 0), **changes):
    return [
        {
            "instruction": text,
            "output_1": f"baseline answer {row}",
            "generator_1": "gpt4_1106_preview",
            "dataset": "helpful",
            "output_2": f"answer {row}",
            "generator_2": "policy",
            "annotator": "weighted_alpaca_eval_gpt4_turbo",
            "preference": preference,
            "price_per_example": 0.01,
            "raw_completion": {"text": "m", "logprobs": {"content": []}},
        }
        | changes
        for row, (text, preference) in enumerate(zip(TEXTS, preferences, strict=True))
    ]


@pytest.mark.parametrize("name", ["set.json", "set.jsonl"])
def test_instructions_are_read_to_the_byte_with_their_data_set(name, tmp_path):
    rows = [{"instruction": text, "dataset": "own", "output": "x", "generator": "y"} for text in TEXTS]
    text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_instructions(tmp_path / name) == (TEXTS, ["own"] * 4)


def test_instructions_without_a_data_set_get_one(tmp_path):
    (tmp_path / "set.json").write_text(json.dumps([{"instruction": text} for text in TEXTS]))
    assert read_instructions(tmp_path / "set.json").datasets == ["alpaca_eval"] * 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"instruction": "a"}, {"instruction": "b"}, {"instruction": "a"}], r"row 2: .*'a' is that of .*row 0"),
        ([{"instruction": "a"}, {"instruction": " \n"}], "row 1: the instruction is empty"),
        ([{"instruction": "a"}, {"instruction": None}], "row 1: 'instruction' is None"),
        ([{"prompt": "a"}], "columns prompt; allowed: one named instruction"),
    ],
)
def test_a_bad_evaluation_set_is_refused_by_its_row(rows, message, tmp_path):
    (tmp_path / "set.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=message):
        read_instructions(tmp_path / "set.json")


def test_model_outputs_have_alpaca_evals_columns_and_survive_a_round_trip(asked, tmp_path):
    outputs = ["", "é 🦔\u2028", "plain", ' "quoted" \n']
    path = write_model_outputs(tmp_path / "out" / "model_outputs.json", asked, outputs, "my policy")
    rows = json.loads(path.read_bytes())
    assert [row["dataset"] for row in rows] == asked.datasets
    assert [list(row) for row in rows] == [["instruction", "output", "generator", "dataset"]] * 4
    read = read_answers_to(path, [[{"role": "user", "content": text}] for text in TEXTS])
    assert (read.texts, read.name) == (outputs, "my policy")
    assert [file.name for file in path.parent.iterdir()] == ["model_outputs.json"]


def test_a_failed_write_leaves_the_old_file(asked, tmp_path):
    path = write_model_outputs(tmp_path / "a.json", asked, list("abcd"), "policy")
    before = path.read_bytes()
    with pytest.raises(InputError, match="outputs row 2 is None"):
        write_model_outputs(path, asked, ["a", "b", None, "d"], "policy")
    with pytest.raises(InputError, match="outputs has 3 rows; allowed: one for each of 4"):
        write_model_outputs(path, asked, list("abc"), "policy")
    assert path.read_bytes() == before


@pytest.mark.parametrize(("path", "generator"), [("a.jsonl", "policy"), ("a.json", "")])
def test_a_file_that_alpaca_eval_would_not_take_is_not_written(path, generator, asked, tmp_path):
    with pytest.raises(InputError, match="allowed"):
        write_model_outputs(tmp_path / path, asked, list("abcd"), generator)
    assert not list(tmp_path.iterdir())


def test_annotations_are_read_as_alpaca_eval_means_them(asked, tmp_path):
    path = write_annotations(tmp_path / "annotations.json", verdicts()[::-1])
    read = read_annotations(path, asked=asked, baseline="gpt4_1106_preview")
    assert read.preferences == pytest.approx([0.5, np.nan, 1.0, 0.25], nan_ok=True)
    assert read.places.tolist() == [3, 2, 1, 0]
    assert (read.generator, read.baseline) == ("policy", "gpt4_1106_preview")
    assert (read.outputs[0], read.baseline_outputs[0]) == ("answer 3", "baseline answer 3")


def test_lengths_are_characters(tmp_path):
    rows = verdicts(output_2="🦔é", output_1="abc")
    read = read_annotations(write_annotations(tmp_path / "a.json", rows))
    assert read.lengths.tolist() == [2] * 4
    assert read.baseline_lengths.tolist() == [3] * 4
    assert read.places is None


def test_a_nan_preference_is_a_missing_one(tmp_path):
    rows = verdicts(preferences=(1.0, float("nan"), 2, 1.5))
    read = read_annotations(write_annotations(tmp_path / "a.json", rows))
    assert np.isnan(read.preferences).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (2, {"instruction": TEXTS[0]}, r"row 2: the instruction .* is that of .*row 0; allowed: each once"),
        (
            3,
            {"instruction": TEXTS[3].strip() + " "},
            "row 3: 'instruction' is .*; allowed: one of the evaluation set, byte for byte",
        ),
        (1, {"generator_2": "other"}, "row 1: the generator_2 is 'other' and that of .*row 0 'policy'"),
        (2, {"generator_1": "davinci"}, "row 2: the generator_1 is 'davinci'"),
        (2, {"annotator": "claude"}, "row 2: the annotator is 'claude'"),
        (1, {"preference": 2.2}, "row 1: 'preference' is 2.2; allowed: 1 to 2"),
        (1, {"preference": True}, "row 1: 'preference' is True"),
        (1, {"preference": "2"}, "row 1: 'preference' is '2'"),
        (1, {"preference": float("inf")}, "row 1: 'preference' is inf"),
        (3, {"output_2": None}, "row 3: 'output_2' is None"),
    ],
)
def test_a_bad_annotation_is_refused_by_its_row(row, change, message, asked, tmp_path):
    rows = verdicts()
    rows[row] |= change
    with pytest.raises(InputError, match=message):
        read_annotations(write_annotations(tmp_path / "a.json", rows), asked=asked)


def test_a_row_without_a_preference_is_refused(tmp_path):
    rows = verdicts()
    del rows[2]["preference"]
    with pytest.raises(InputError, match="row 2: there is no 'preference'"):
        read_annotations(write_annotations(tmp_path / "a.json", rows))


def test_missing_rows_are_named(asked, tmp_path):
    path = write_annotations(tmp_path / "a.json", verdicts()[::3])
    with pytest.raises(InputError, match=r"lacks 2 of 4 instructions .* rows 1 \('Say .*\), 2 \('Wie"):
        read_annotations(path, asked=asked)


def test_another_baseline_is_refused(tmp_path):
    path = write_annotations(tmp_path / "a.json", verdicts())
    with pytest.raises(InputError, match=r"baseline 'gpt4_1106_preview' .* allowed: 'text_davinci_003'"):
        read_annotations(path, baseline="text_davinci_003")


def test_a_policy_is_not_compared_with_itself(tmp_path):
    path = write_annotations(tmp_path / "a.json", verdicts(generator_2="gpt4_1106_preview"))
    with pytest.raises(InputError, match="with itself"):
        read_annotations(path)


def test_annotations_of_other_answers_are_refused(asked, tmp_path):
    path = write_annotations(tmp_path / "a.json", verdicts())
    outputs = [f"answer {row}" for row in range(4)]
    judged = write_model_outputs(tmp_path / "m.json", asked, outputs, "policy")
    assert read_annotations(path, answers=judged).outputs == outputs
    write_model_outputs(judged, asked, [*outputs[:3], "a newer answer"], "policy")
    with pytest.raises(InputError, match=r"row 3: 'output_2' is 'answer 3'; .*m\.json, 'a newer answer'"):
        read_annotations(path, answers=judged)
    write_model_outputs(judged, asked, outputs, "round 2")
    with pytest.raises(InputError, match="row 0: 'generator_2' is 'policy'; allowed: 'round 2'"):
        read_annotations(path, answers=judged)
    write_model_outputs(judged, Instructions(TEXTS[:3], ["helpful"] * 3), outputs[:3], "policy")
    with pytest.raises(InputError, match="lacks an answer to 1 of 4 prompts"):
        read_annotations(path, answers=judged)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "row 0: a int"),
        ("{}", "holds a dict; allowed: a list"),
        ("[]", "has no rows"),
        ('[{"instruction":', "line 1: not valid JSON"),
        ("\udcff", "not valid UTF-8"),
    ],
)
def test_a_broken_file_is_refused(text, message, tmp_path):
    (tmp_path / "a.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=message):
        read_annotations(tmp_path / "a.json")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json cannot be read"):
        read_annotations(tmp_path / "nowhere.json")


def test_the_difficulty_file_is_read_by_index(tmp_path):
    rows = gamed_rows(count=6)
    read = read_gamed(write_gamed(tmp_path / "df_gamed.csv", count=6))
    assert read.difficulty.tolist() == [row["instruction_difficulty"] for row in rows[:6]]
    assert read.features.tolist() == [[row["std_delta_len"], row["instruction_difficulty"]] for row in rows]
    assert read.preferences.tolist() == [row["preference"] for row in rows]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,preference\n0,1\n", "lacks the column std_delta_len"),
        ("index,preference,std_delta_len,instruction_difficulty\n0,1.5,0,0\n", "row 0: preference is '1.5'"),
        ("index,preference,std_delta_len,instruction_difficulty\n0,1,0,0\n2,1,0,0\n", "no row with the index 1"),
        ("index,preference,std_delta_len,instruction_difficulty\n0,1,0,hard\n", "row 0: instruction_difficulty"),
        ("index,preference,std_delta_len,instruction_difficulty\n0,1,,0\n", "not finite"),
        ("index,preference,std_delta_len,instruction_difficulty\ninf,1,0,0\n", "row 0: index is 'inf'"),
        ("index,preference,std_delta_len,instruction_difficulty\n", "has no rows"),
    ],
)
def test_a_bad_difficulty_file_is_refused(text, message, tmp_path):
    (tmp_path / "df_gamed.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_gamed(tmp_path / "df_gamed.csv")


def test_a_simulated_file_reads_whole(tmp_path):
    rows = annotation_rows("dominant_nulls", count=60)
    read = read_annotations(write_annotations(tmp_path / "a.json", rows))
    expected = [np.nan if row["preference"] is None else row["preference"] - 1 for row in rows]
    assert read.preferences == pytest.approx(expected, nan_ok=True)
