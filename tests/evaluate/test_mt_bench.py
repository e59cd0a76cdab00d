"""MT-Bench's files: FastChat's layout both ways, and averages as it takes them."""

import json

import numpy as np
import pytest
from scipy.stats import t

from sgpo.errors import InputError
from sgpo.evaluate.mt_bench import Question, by_temperature, next_conversation, read_questions, write_answers
from sgpo.evaluate.mt_judgments import average_judgments, read_judgments

# Questions of our own: as many turns and categories as the formats need.
QUESTIONS = [
    Question(81, "writing", ("Write a toast for a lighthouse keeper.", "Now in one sentence."), None),
    Question(82, "math", ("What is 17 times 3?", "And plus 9? \n"), ("51", "60")),
    Question(83, "stem", ("Why is the sky blue?", "Und auf Deutsch? 🌤\u2028"), None),
    Question(84, "math", ("Is 91 prime?", "Why?"), None),
    Question(85, "gardening", ("When do I sow leeks?", "And beans?"), None),
]
TURNS = [(f"first {question.question_id}", f'second "é" {question.question_id}') for question in QUESTIONS]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def question_rows():
    rows = [{"question_id": q.question_id, "category": q.category, "turns": list(q.turns)} for q in QUESTIONS]
    rows[1]["reference"] = list(QUESTIONS[1].reference)
    return rows


def judgment_rows(scores=None, model="policy"):
    rows = []
    for place, question in enumerate(QUESTIONS):
        for turn in (1, 2):
            template = ("single-math-v1" if question.category == "math" else "single-v1") + "-multi-turn" * (turn - 1)
            rows.append(
                {
                    "question_id": question.question_id,
                    "model": model,
                    "judge": ["gpt-4", template],
                    "user_prompt": "...",
                    "judgment": "Rating: [[7]]",
                    "score": 7 if scores is None else scores[place][turn - 1],
                    "turn": turn,
                    "tstamp": 1.5,
                }
            )
    return rows


def test_questions_are_read_to_the_byte(tmp_path):
    assert read_questions(write_lines(tmp_path / "question.jsonl", question_rows())) == QUESTIONS


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (2, {"question_id": 81}, r"line 3: the question_id 81 is that of .*line 1"),
        (0, {"question_id": "81"}, "line 1: 'question_id' is '81'"),
        (1, {"turns": []}, "line 2: 'turns' is"),
        (1, {"turns": ["a", None]}, "line 2: 'turns' is"),
        (1, {"reference": ["51"]}, "line 2: 'reference' holds 1 texts; allowed: 2"),
        (3, {"category": None}, "line 4: 'category' is None"),
    ],
)
def test_a_bad_question_is_refused_by_its_line(row, change, message, tmp_path):
    rows = question_rows()
    rows[row] |= change
    with pytest.raises(InputError, match=message):
        read_questions(write_lines(tmp_path / "question.jsonl", rows))


def test_each_category_is_sampled_at_fastchats_temperature():
    assert by_temperature(QUESTIONS) == {0.0: [1, 3], 0.1: [2], 0.7: [0, 4]}
    categories = ("extraction", "coding", "reasoning", "humanities", "roleplay")
    questions = [Question(1, category, ("?",), None) for category in categories]
    assert by_temperature(questions) == {0.0: [0, 1, 2], 0.1: [3], 0.7: [4]}


def test_the_second_turn_follows_the_models_own_first_answer():
    assert next_conversation(QUESTIONS[1]) == [{"role": "user", "content": "What is 17 times 3?"}]
    assert next_conversation(QUESTIONS[1], ["51!"]) == [
        {"role": "user", "content": "What is 17 times 3?"},
        {"role": "assistant", "content": "51!"},
        {"role": "user", "content": "And plus 9? \n"},
    ]
    with pytest.raises(InputError, match="answered holds 2 answers to question 82"):
        next_conversation(QUESTIONS[1], ["51", "60"])


def test_answers_are_in_fastchats_layout(tmp_path):
    path = write_answers(tmp_path / "model_answer" / "policy.jsonl", QUESTIONS, TURNS, "policy", created=7.5)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(row) for row in rows] == [["question_id", "answer_id", "model_id", "choices", "tstamp"]] * 5
    assert [row["choices"] for row in rows] == [[{"index": 0, "turns": list(turns)}] for turns in TURNS]
    assert [(row["question_id"], row["model_id"]) for row in rows] == [(key, "policy") for key in range(81, 86)]
    assert len({row["answer_id"] for row in rows}) == 5


def test_the_same_answers_are_the_same_bytes(tmp_path):
    one, other = (
        write_answers(tmp_path / folder / "policy.jsonl", QUESTIONS, TURNS, "policy", created=7.5)
        for folder in ("a", "b")
    )
    assert one.read_bytes() == other.read_bytes()


def test_answers_that_fastchat_would_misread_are_not_written(tmp_path):
    with pytest.raises(InputError, match=r"path ends in 'answers\.jsonl'; allowed: policy\.jsonl"):
        write_answers(tmp_path / "answers.jsonl", QUESTIONS, TURNS, "policy")
    with pytest.raises(InputError, match="turns has 4 rows; allowed: one for each of 5"):
        write_answers(tmp_path / "policy.jsonl", QUESTIONS, TURNS[:4], "policy")
    with pytest.raises(InputError, match="turns of question 85 is"):
        write_answers(tmp_path / "policy.jsonl", QUESTIONS, [*TURNS[:4], ("first",)], "policy")
    assert not list(tmp_path.iterdir())


def test_averages_leave_parse_failures_out_and_count_them(tmp_path):
    scores = [(8, 6), (4, -1), (9, 9), (-1, 5.5), (10, 8)]
    path = write_lines(tmp_path / "gpt-4_single.jsonl", judgment_rows(scores))
    averages = average_judgments(read_judgments(path, QUESTIONS))
    assert averages.overall.mean == pytest.approx(np.mean([8, 6, 4, 9, 9, 5.5, 10, 8]))
    assert (averages.overall.judgments, averages.overall.failed) == (10, 2)
    assert averages.by_turn[1].mean == pytest.approx(np.mean([8, 4, 9, 10]))
    assert (averages.by_turn[2].judgments, averages.by_turn[2].failed) == (5, 1)
    assert averages.by_category["math"].mean == pytest.approx(4.75)
    assert averages.by_category_and_turn["math", 2].mean == 5.5
    assert list(averages.by_category) == ["writing", "math", "stem", "gardening"]


def test_a_category_without_a_readable_score_has_no_mean(tmp_path):
    scores = [(-1, -1), (4, 5), (9, 9), (6, 5.5), (10, 8)]
    averages = average_judgments(read_judgments(write_lines(tmp_path / "j.jsonl", judgment_rows(scores)), QUESTIONS))
    assert np.isnan(averages.by_category["writing"].mean)
    assert (averages.by_category["writing"].judgments, averages.by_category["writing"].failed) == (2, 2)


def test_intervals_take_the_question_as_unit_and_end_with_the_scale(tmp_path):
    scores = [(8, 8), (4, 4), (9, 9), (7, 7), (10, 10)]
    averages = average_judgments(read_judgments(write_lines(tmp_path / "j.jsonl", judgment_rows(scores)), QUESTIONS))
    first = np.array([8, 4, 9, 7, 10])
    half = t.ppf(0.975, 4) * first.std(ddof=1) / np.sqrt(5)
    # Twice the same score tells as much as once.
    assert averages.overall.low == averages.by_turn[1].low == pytest.approx(first.mean() - half)
    assert averages.overall.high == 10.0
    assert np.isnan(averages.by_category["stem"].low)


def test_of_several_models_one_is_asked_for(tmp_path):
    rows = judgment_rows() + judgment_rows([(3, 3)] * 5, model="other")
    path = write_lines(tmp_path / "gpt-4_single.jsonl", rows)
    with pytest.raises(InputError, match=r"line 11: the model is 'other' and that of .*line 1 'policy'"):
        read_judgments(path, QUESTIONS)
    assert average_judgments(read_judgments(path, QUESTIONS, model="other")).overall.mean == 3.0
    with pytest.raises(InputError, match="no judgment of the model 'third'"):
        read_judgments(path, QUESTIONS, model="third")


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (3, {"turn": 1}, r"line 4: the question and turn \(82, 1\) is that of .*line 3"),
        (3, {"turn": 3}, "line 4: there is no turn 3 of a question 82"),
        (3, {"question_id": 99}, "line 4: there is no turn 2 of a question 99"),
        (3, {"score": None}, "line 4: 'score' is None"),
        (3, {"score": 70}, "line 4: 'score' is 70"),
        (3, {"score": float("nan")}, "line 4: 'score' is nan"),
        (3, {"judge": ["claude", "single-v1"]}, "line 4: the judge is 'claude'"),
        (3, {"judge": None}, "line 4: 'judge' is None"),
        (3, {"turn": "2"}, "line 4: 'turn' is '2'"),
    ],
)
def test_a_bad_judgment_is_refused_by_its_line(row, change, message, tmp_path):
    rows = judgment_rows()
    rows[row] |= change
    with pytest.raises(InputError, match=message):
        read_judgments(write_lines(tmp_path / "j.jsonl", rows), QUESTIONS)


def test_a_missing_turn_is_named(tmp_path):
    with pytest.raises(InputError, match="lacks turn 2 of question 84, turn 1 of question 85"):
        read_judgments(write_lines(tmp_path / "j.jsonl", judgment_rows()[:7] + judgment_rows()[9:]), QUESTIONS)
