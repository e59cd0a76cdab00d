"""`sgpo eval alpaca|mt-bench|reward|preferences` do what the library does, on real files and a tiny policy."""

import json

import numpy as np
import pytest

from evaluate.alpaca_files import annotation_rows, write_annotations, write_gamed
from sgpo.cli import main
from sgpo.evaluate.alpaca import read_model_outputs
from sgpo.evaluate.length_control import length_controlled_win_rate
from sgpo.evaluate.mt_bench import read_answers, read_questions
from sgpo.policy.generate import TransformersGenerator, generate_responses
from sgpo.policy.load import load_policy
from sgpo.policy.sampling import Sampling, prompt_seeds
from sgpo.policy.score import score_responses
from sgpo.stats.certificate import certify_policy
from tiny_annotators import build_tiny_classifier
from tiny_model import build_tiny_model

WORDS = ["bridge", "river", "town", "cat", "roof", "house"]
REWARD = "def reward(prompts, responses):\n    return [[float(len(text)) for text in row] for row in responses]\n"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(capsys, *arguments, code=0):
    assert main(["eval", *map(str, arguments), "--json"]) == code
    printed = capsys.readouterr()
    return json.loads(printed.out) if code == 0 else printed.err


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("policy") / "model", seed=0)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("other") / "model", seed=1)


def test_alpaca_writes_the_policys_answers_for_alpaca_eval(tmp_path, capsys, policy):
    instructions = [" Say something. ", "Count to ten."]
    asked = tmp_path / "set.json"
    asked.write_text(json.dumps([{"instruction": text, "dataset": "ours"} for text in instructions]))
    output = tmp_path / "deep/model_outputs.json"
    options = ["--policy", policy, "--instructions", asked, "--name", "tiny", "--max-new-tokens", "12"]
    result = run(capsys, "alpaca", *options, "--output", output, "--seed", "4")
    assert (result["file"], result["answers"]) == (str(output), 2)
    prompts = [[{"role": "user", "content": text}] for text in instructions]
    expected = generate_responses(load_policy(policy), prompts, n=1, max_new_tokens=12, seed=4)
    read = read_model_outputs(output)
    assert read.instructions == instructions
    assert read.outputs == [row[0].text for row in expected]
    assert read.generator == "tiny"
    assert result["cut"] == sum(row[0].finish_reason == "length" for row in expected)


def test_alpaca_reads_annotations_and_prints_both_models(tmp_path, capsys):
    rows = annotation_rows("even_long_soft")
    annotations, gamed = write_annotations(tmp_path / "annotations.json", rows), write_gamed(tmp_path / "gamed.csv")
    result = run(capsys, "alpaca", "--annotations", annotations, "--difficulty", gamed)
    preferences = np.array([row["preference"] for row in rows]) - 1
    lengths, baseline = (np.array([len(row[f"output_{side}"]) for row in rows]) for side in (2, 1))
    minimal = length_controlled_win_rate(preferences, lengths, baseline)
    assert result["raw"]["win_rate"] == pytest.approx(100 * preferences.mean())
    assert result["length_controlled"]["minimal"]["win_rate"] == minimal.win_rate
    assert result["length_controlled"]["minimal"]["standard_error"] == minimal.standard_error
    assert set(result["length_controlled"]) == {"minimal", "full"}
    assert main(["eval", "alpaca", "--annotations", str(annotations)]) == 0
    table = capsys.readouterr().out
    assert f"{minimal.win_rate:.2f}" in table
    assert "full" not in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--policy is missing; allowed: --annotations, or all of --policy, --instructions, --name, --output"),
        (["--annotations", "a.json", "--policy", "p"], "--policy is given beside --annotations"),
        (
            ["--policy", "p", "--instructions", "i", "--name", "n", "--output", "o", "--baseline", "b"],
            "--baseline goes",
        ),
        (["--policy", "p", "--instructions", "i", "--name", "n", "--output", "o.txt"], "--output is 'o.txt'"),
        (["--annotations", "missing.json"], "missing.json cannot be read"),
    ],
)
def test_alpaca_refuses_what_does_not_go_together(capsys, arguments, words):
    assert words in run(capsys, "alpaca", *arguments, code=2)


def test_alpaca_names_the_row_of_another_baseline(tmp_path, capsys):
    rows = annotation_rows("even_long_soft", count=10)
    rows[7]["generator_1"] = "somebody"
    annotations = write_annotations(tmp_path / "annotations.json", rows)
    assert "row 7: the generator_1 is 'somebody'" in run(capsys, "alpaca", "--annotations", annotations, code=2)


QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Shorter, please."]},
    {"question_id": 82, "category": "math", "turns": ["Two and two?", "And five?"]},
    {"question_id": 83, "category": "ours", "turns": ["One turn."]},
]


def test_mt_bench_answers_each_turn_at_its_categorys_temperature(tmp_path, capsys, policy):
    questions = write(tmp_path / "question.jsonl", QUESTIONS)
    options = ["--policy", policy, "--questions", questions, "--name", "tiny", "--output", tmp_path]
    result = run(capsys, "mt-bench", *options, "--max-new-tokens", "10", "--seed", "2")
    assert result["file"] == str(tmp_path / "model_answer/tiny.jsonl")
    answers = read_answers(result["file"], read_questions(questions))
    assert answers.model_id == "tiny"
    assert list(map(len, answers.turns)) == [2, 2, 1]
    # Mathematics is answered greedily, and the second turn sees the first.
    generator = TransformersGenerator(load_policy(policy))
    said = [{"role": "user", "content": "Two and two?"}]
    for turn, answer in enumerate(answers.turns[1]):
        written = generator.generate([said], [0], Sampling(n=1, temperature=0.0, max_new_tokens=10))
        assert answer == written[0][0].text
        said = [*said, {"role": "assistant", "content": answer}, {"role": "user", "content": "And five?"}]
        assert turn < 2
    # Writing is sampled at 0.7, by the question's place and the turn.
    [seed] = prompt_seeds(2, 1, first=0)
    sampling = Sampling(n=1, temperature=0.7, max_new_tokens=10)
    [[first]] = generator.generate([[{"role": "user", "content": "Write a line."}]], [seed], sampling)
    assert answers.turns[0][0] == first.text


def test_mt_bench_averages_judgments(tmp_path, capsys):
    questions = write(tmp_path / "question.jsonl", QUESTIONS)
    scores = {(81, 1): 8, (81, 2): 6, (82, 1): -1, (82, 2): 3, (83, 1): 7}
    rows = [
        {"question_id": key, "turn": turn, "model": "tiny", "judge": ["gpt-4", "single-v1"], "score": score}
        for (key, turn), score in scores.items()
    ]
    judgments = write(tmp_path / "gpt-4_single.jsonl", rows)
    result = run(capsys, "mt-bench", "--judgments", judgments, "--questions", questions)
    assert result["overall"]["mean"] == pytest.approx((8 + 6 + 3 + 7) / 4)
    assert (result["overall"]["judgments"], result["overall"]["failed"]) == (5, 1)
    assert result["by_turn"]["2"]["mean"] == pytest.approx(4.5)
    assert result["by_category_and_turn"]["math/1"]["mean"] is None
    assert main(["eval", "mt-bench", "--judgments", judgments, "--questions", questions]) == 0
    assert "writing" in capsys.readouterr().out
    rows[0]["score"] = 11
    write(tmp_path / "gpt-4_single.jsonl", rows)
    refused = run(capsys, "mt-bench", "--judgments", judgments, "--questions", questions, code=2)
    assert "line 1: 'score' is 11" in refused


def test_a_reward_function_gives_the_win_rate_that_its_numbers_say(tmp_path, capsys, policy):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": word} for word in WORDS])
    sides = {"long": ["four"] * 4 + ["four"] * 2, "short": ["one"] * 4 + ["four"] * 2}
    files = {
        name: write(
            tmp_path / f"{name}.jsonl",
            [{"prompt": word, "response": text, "generator": name} for word, text in zip(WORDS, texts, strict=True)],
        )
        for name, texts in sides.items()
    }
    (tmp_path / "reward.py").write_text(REWARD)
    output = tmp_path / "result.json"
    options = ["--prompts", prompts, "--function", f"{tmp_path / 'reward.py'}:reward", "--output", output]
    result = run(capsys, "reward", "--policy", files["long"], "--baseline", files["short"], *options)
    assert result["win_rate"] == pytest.approx((4 + 1) / 6)
    assert result["low"] < result["win_rate"] < result["high"]
    assert (result["policy"], result["baseline"]) == ("long", "short")
    assert (result["reward"]["mean"], result["baseline_reward"]["mean"]) == (4.0, pytest.approx(20 / 6))
    assert json.loads(output.read_text())["rewards"] == [[4.0, 3.0]] * 4 + [[4.0, 4.0]] * 2


def test_a_reward_model_compares_what_two_policies_write(tmp_path, capsys, policy, other):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": word} for word in WORDS[:3]])
    model = build_tiny_classifier(tmp_path / "reward", seed=3)
    options = ["--prompts", prompts, "--model", model, "--max-new-tokens", "8"]
    result = run(capsys, "reward", "--policy", policy, "--baseline", other, *options)
    mirrored = run(capsys, "reward", "--policy", other, "--baseline", policy, *options)
    assert result["prompts"] == 3
    assert result["win_rate"] == pytest.approx(1 - mirrored["win_rate"])
    assert result["reward"]["mean"] == pytest.approx(mirrored["baseline_reward"]["mean"])


def pairs_of(words):
    rows = [{"prompt": f"Tell me of the {word}.", "chosen": f"The {word} is old.", "rejected": "No."} for word in words]
    return [{**row, "source": "odd" if place % 2 else "even"} for place, row in enumerate(rows)]


def gaps_by_hand(policy, reference, rows, beta):
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    totals = []
    for side in ("chosen", "rejected"):
        texts = [row[side] for row in rows]
        own, base = (score_responses(load_policy(path), prompts, texts).logps for path in (policy, reference))
        totals.append(beta * (own - base))
    return totals[0] - totals[1]


def test_preferences_reports_accuracy_calibration_and_the_certificate(tmp_path, capsys, policy, other):
    human, own = pairs_of(WORDS), pairs_of(["sky", "poem", "night"])
    files = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in (("human", human), ("own", own))]
    options = ["--policy", other, "--reference", policy, "--pairs", files[0], "--beta", "0.5"]
    result = run(capsys, "preferences", *options, "--self-pairs", files[1], "--output", tmp_path / "result.json")
    gaps, own_gaps = (gaps_by_hand(other, policy, rows, 0.5) for rows in (human, own))
    assert result["preferences"]["overall"]["accuracy"] == pytest.approx((gaps > 0).mean())
    assert result["preferences"]["by_source"]["odd"]["accuracy"] == pytest.approx((gaps[1::2] > 0).mean())
    assert sum(part["accuracy"]["pairs"] for part in result["preferences"]["by_length"]) == len(WORDS)
    certificate = certify_policy(gaps, own_gaps)
    assert result["certificate"]["bound"] == pytest.approx(certificate.bound, rel=1e-4)
    assert result["certificate"]["bound"] <= result["certificate"]["human"]
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert main(["eval", "preferences", *map(str, options)]) == 0
    table = capsys.readouterr().out
    assert "source even" in table
    assert "Certificate" not in table


def test_preferences_without_sources_or_self_pairs_reports_neither(tmp_path, capsys, policy, other):
    rows = [{key: value for key, value in row.items() if key != "source"} for row in pairs_of(WORDS)]
    options = ["--policy", other, "--reference", policy, "--pairs", write(tmp_path / "pairs.jsonl", rows)]
    result = run(capsys, "preferences", *options)
    assert result["preferences"]["by_source"] == {}
    assert result["certificate"] is None
    assert "allowed: one named 'topic'" in run(capsys, "preferences", *options, "--source-column", "topic", code=2)
