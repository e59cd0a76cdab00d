"""`sgpo eval alpaca|mt-bench|reward|preferences` do what the library does, on real files and a tiny policy."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluate.alpaca_files import annotation_rows, write_annotations, write_gamed
from evaluate.ifeval_kwargs import row
from faulty_server import completion, faulty
from sgpo.cli import main
from sgpo.config import EvaluateConfig, GenerationConfig, LeaderConfig, RunConfig
from sgpo.errors import InputError
from sgpo.evaluate.length_control import length_controlled_win_rate
from sgpo.policy import generators
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.load import load_policy
from sgpo.policy.sampling import Sampling, prompt_seeds
from sgpo.policy.score import score_responses
from sgpo.stats.certificate import certify_policy
from tiny_annotators import build_tiny_classifier
from tiny_model import CHAT_TEMPLATE, build_tiny_model, generate_responses

WORDS = ["bridge", "river", "town", "cat", "roof", "house"]
REWARD = "def reward(prompts, responses):\n    return [[float(len(text)) for text in row] for row in responses]\n"


def answer_to(word):
    return {"prompt": f"Request {word}.", "response": f"The {word}, of course."}


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
    rows = json.loads(output.read_text(encoding="utf-8"))
    assert [row["instruction"] for row in rows] == instructions
    assert [row["output"] for row in rows] == [row[0].text for row in expected]
    assert [row["generator"] for row in rows] == ["tiny", "tiny"]
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
    assert (result["characters"], result["baseline_characters"]) == (lengths.mean(), baseline.mean())
    assert main(["eval", "alpaca", "--annotations", str(annotations)]) == 0
    table = capsys.readouterr().out
    assert f"length-controlled (minimal) {minimal.win_rate:.2f}" in " ".join(table.split())
    assert "length-controlled (full)" not in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--policy is missing; allowed: --annotations, or all of --policy, --instructions, --name, --output"),
        (["--annotations", "a.json", "--policy", "p"], "--policy is given with --annotations"),
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


READING = {
    "alpaca": ("--annotations", {"instructions", "split", "difficulty", "baseline", "answers", "coding", "by-row"}),
    "mt-bench": ("--judgments", {"questions", "name", "baseline", "keep"}),
}


@pytest.mark.parametrize("kind", READING)
def test_every_flag_that_reading_verdicts_would_ignore_is_refused(capsys, monkeypatch, kind):
    """The flags are those that --help shows, so a new one is tested too."""
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["eval", kind, "--help"])
    shown = re.findall(r"^  --([a-z-]+) ?(\{\w+|\w*)", capsys.readouterr().out, re.M)
    source, taken = READING[kind]
    flags = {name: value for name, value in shown if name not in taken | {source[2:], "json"}}
    assert {"policy", "max-new-tokens", "backend", "policy-servers", "seed", "dtype"} <= set(flags)
    for name, value in flags.items():
        words = {"": [], "N": ["0"], "X": ["0.5"], "JSON": ["{}"]}.get(value, [value.removeprefix("{") or "x"])
        refused = run(capsys, kind, source, "missing.json", f"--{name}", *words, code=2)
        assert f"--{name} is given with {source}, which takes none" in refused
    if kind == "alpaca":
        refused = run(capsys, kind, source, "missing.json", "--split", "test", code=2)
        assert "--split goes with --instructions, which is missing" in refused


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
    rows = [json.loads(line) for line in Path(result["file"]).read_text().splitlines()]
    assert {row["model_id"] for row in rows} == {"tiny"}
    turns = [row["choices"][0]["turns"] for row in rows]
    assert list(map(len, turns)) == [2, 2, 1]
    # Mathematics is answered greedily, and the second turn sees the first.
    generator = TransformersGenerator(load_policy(policy))
    messages = [{"role": "user", "content": "Two and two?"}]
    for turn, answer in enumerate(turns[1]):
        written = generator.generate([messages], [0], Sampling(n=1, temperature=0.0, max_new_tokens=10))
        assert answer == written[0][0].text
        messages = [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": "And five?"}]
        assert turn < 2
    # Writing is sampled at 0.7, by the question's place and the turn.
    [seed] = prompt_seeds(2, 1, first=0)
    sampling = Sampling(n=1, temperature=0.7, max_new_tokens=10)
    [[first]] = generator.generate([[{"role": "user", "content": "Write a line."}]], [seed], sampling)
    assert turns[0][0] == first.text


def test_a_turn_without_room_is_named_and_the_others_are_answered(tmp_path, capsys):
    """A second turn that exceeds the context, after which there is no third; and one that is cut at the context."""
    small = build_tiny_model(tmp_path / "small", context=200)
    turns = [["One?", "Two?"]] * 5 + [["One?", "and " * 100, "Three?"], ["One?", "b" * 100]]
    rows = [{"question_id": 101 + row, "category": "math", "turns": one} for row, one in enumerate(turns)]
    questions = write(tmp_path / "question.jsonl", rows)
    options = ["--policy", small, "--questions", questions, "--name", "tiny", "--output", tmp_path]
    result = run(capsys, "mt-bench", *options, "--max-new-tokens", "40")
    assert (result["failed"], result["answers"]) == ({"too_long": [[106, 2], [106, 3]]}, 13)
    written = [json.loads(line)["choices"][0]["turns"] for line in Path(result["file"]).read_text().splitlines()]
    assert written[5][1:] == ["$ERROR$"] * 2 and written[5][0] != "$ERROR$"
    assert not any("$ERROR$" in one for row, one in enumerate(written) if row != 5)
    # One of the two questions is all that is asked: too much to go on.
    few = write(tmp_path / "few.jsonl", rows[5:6])
    refused = run(
        capsys, "mt-bench", "--policy", small, "--questions", few, *options[4:], "--max-new-tokens", "40", code=2
    )
    assert main(["eval", "mt-bench", *map(str, options), "--max-new-tokens", "40"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "tokens; without an answer: 2 too long (questions 106 turn 2, 106 turn 3)." in said
    assert "2 of 3 turns failed (too_long 2" in refused and "max_failed, 0.2" in refused


def test_alpaca_leaves_out_what_the_policy_has_no_answer_to(tmp_path, capsys):
    small = build_tiny_model(tmp_path / "small", context=200)
    instructions = [*WORDS, "long " * 80]
    asked = write(tmp_path / "eval.jsonl", [{"instruction": text} for text in instructions])
    options = ["--policy", small, "--instructions", asked, "--name", "tiny", "--output", tmp_path / "out.json"]
    result = run(capsys, "alpaca", *options, "--max-new-tokens", "8")
    assert (result["failed"], result["answers"]) == ({"too_long": [6]}, 6)
    assert [row["instruction"] for row in json.loads((tmp_path / "out.json").read_text())] == WORDS
    assert main(["eval", "alpaca", *map(str, options), "--max-new-tokens", "8"]) == 0
    assert "tokens; without an answer: 1 too long (row 6)." in capsys.readouterr().out


def test_without_any_answer_there_is_no_number_and_no_warning(tmp_path, capsys):
    """Warnings are errors here; null in JSON is what nothing is known of."""
    small = build_tiny_model(tmp_path / "small", context=64)
    asked = write(tmp_path / "eval.jsonl", [{"instruction": text, "prompt": text} for text in ("long " * 80, "x" * 99)])
    options = ["--policy", small, "--max-new-tokens", "8", "--max-failed", "1"]
    files = ["--instructions", asked, "--name", "tiny", "--output", tmp_path / "out.json"]
    result = run(capsys, "alpaca", *options, *files)
    assert (result["answers"], result["failed"], json.loads(Path(result["file"]).read_text())) == (
        0, {"too_long": [0, 1]}, []
    )  # fmt: skip
    (tmp_path / "reward.py").write_text(REWARD)
    compared = ["--prompts", asked, "--baseline", small, "--reference", small]
    refused = run(capsys, "reward", *options, *compared, "--function", f"{tmp_path / 'reward.py'}:reward", code=2)
    assert "none of 2 prompts has an answer of each side; allowed: at least one." in refused


def test_the_limit_holds_for_prompts_that_either_side_leaves_unanswered(tmp_path, capsys):
    (tmp_path / "reward.py").write_text(REWARD)
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": word} for word in WORDS])

    def answers(name, absent):
        rows = [
            {"prompt": word, "response": None if word == absent else name, "finish_reason": "filtered"}
            for word in WORDS
        ]
        return write(tmp_path / f"{name}.jsonl", rows)

    options = ["--prompts", prompts, "--function", f"{tmp_path / 'reward.py'}:reward"]
    options += ["--policy", answers("one", "cat"), "--baseline", answers("three", "roof")]
    assert "2 of 6 comparisons failed (filtered 2)" in run(capsys, "reward", *options, code=2)
    result = run(capsys, "reward", *options, "--max-failed", "0.5")
    assert (result["count"], result["unanswered"]) == (4, {"policy": [3], "baseline": [4]})


def with_chat(folder, template=CHAT_TEMPLATE, eos="<|im_end|>"):
    """A tiny policy with another chat template, or another end token than the one that closes its turns."""
    model = AutoModelForCausalLM.from_pretrained(build_tiny_model(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template, tokenizer.eos_token = template, eos
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["alpaca", "mt-bench", "reward"])
def test_what_a_chat_template_does_to_answers_is_said_before_they_are_written(tmp_path, capsys, monkeypatch, kind):
    """Nothing is refused, because a model is measured as it is; the baseline is a policy that answers, too."""
    endless = with_chat(tmp_path / "endless", eos="<|pad|>")
    deaf = "{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] }}{% endif %}{% endfor %}"
    mute = with_chat(tmp_path / "mute", deaf)
    prompts = write(tmp_path / "prompts.jsonl", [{"instruction": word} for word in WORDS[:2]])
    question = {"question_id": 81, "category": "math", "turns": ["One?", "Two?"]}
    questions = write(tmp_path / "questions.jsonl", [question])
    (tmp_path / "reward.py").write_text(REWARD)
    options = {
        "alpaca": ["--instructions", prompts],
        "mt-bench": ["--questions", questions],
        "reward": ["--prompts", prompts, "--baseline", mute, "--function", f"{tmp_path / 'reward.py'}:reward"],
    }[kind]
    said, generate = [], TransformersGenerator.generate

    def listen(*args, **more):
        said.append(capsys.readouterr().err)
        return generate(*args, **more)

    monkeypatch.setattr(TransformersGenerator, "generate", listen)
    if kind != "reward":
        options += ["--name", "it", "--output", tmp_path / f"answers.json{'l' * (kind == 'mt-bench')}"]
    run(capsys, kind, "--policy", endless, *options, "--max-new-tokens", "4")
    assert said[0].count("endless' closes a response with '<|im_end|>' (2), and generation ends only at") == 1
    assert "Warning: " in said[0] and "Add 2 to eos_token_id in generation_config.json" in said[0]
    assert said[0].count("mute' leaves out what the assistant says") == (kind == "reward")


def test_a_policy_server_that_filters_a_prompt_costs_that_prompt(tmp_path, capsys, policy):
    """Generation for a reward and for a judge: every number is over the other prompts."""

    def answer(number, body):
        asked = body["messages"][-1]["content"]
        if "Verdict:" in asked:
            return completion("Verdict: tie")
        return completion(None, reason="content_filter") if asked == WORDS[2] else completion(f"four, {asked}")

    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": word} for word in WORDS])
    baseline = write(tmp_path / "base.jsonl", [{"prompt": word, "response": "one"} for word in WORDS])
    (tmp_path / "reward.py").write_text(REWARD)
    options = ["--policy", policy, "--baseline", baseline, "--prompts", prompts, "--output", tmp_path / "result.json"]
    with faulty(answer) as server:
        options += ["--backend", "server", "--policy-servers", server.url]
        result = run(capsys, "reward", *options, "--function", f"{tmp_path / 'reward.py'}:reward")
        judged = run(capsys, "judge", *options, "--servers", server.url, "--model", "j", "--yes")
        asked = len(server.asked)
        # What failed is kept as that, and asked for again only if the user says so.
        again = run(capsys, "judge", *options, "--servers", server.url, "--model", "j", "--yes")
        assert (again, len(server.asked)) == (judged, asked)
        more = ["--yes", "--retry-failed", "--max-failed", "1"]
        run(capsys, "judge", *options, "--servers", server.url, "--model", "j", *more)
        assert len(server.asked) == asked + 1
    assert (result["failed"], result["count"], result["win_rate"]) == ({"filtered": [2]}, 5, 1.0)
    assert json.loads((tmp_path / "result.json").read_text())["failed"] == {"filtered": [2]}
    assert (judged["failed"], judged["judged"], judged["ties"]) == ({"filtered": [2]}, 5, 5)


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


def test_a_reward_function_gives_the_win_rate_of_its_numbers(tmp_path, capsys, policy):
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


def test_a_reward_model_compares_the_answers_of_two_policies(tmp_path, capsys, policy, other):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": word} for word in WORDS[:3]])
    model = build_tiny_classifier(tmp_path / "reward", seed=3)
    options = ["--prompts", prompts, "--model", model, "--max-new-tokens", "8"]
    result = run(capsys, "reward", "--policy", policy, "--baseline", other, *options)
    mirrored = run(capsys, "reward", "--policy", other, "--baseline", policy, *options)
    assert result["prompts"] == 3
    assert result["win_rate"] == pytest.approx(1 - mirrored["win_rate"])
    assert result["reward"]["mean"] == pytest.approx(mirrored["baseline_reward"]["mean"])


def test_a_reward_evaluation_reports_kl_agreement_and_tokens(tmp_path, capsys, policy, other):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": word} for word in WORDS])
    own = [
        {"prompt": "a", "chosen": "long", "rejected": "no"},
        {"prompt": "b", "chosen": "no", "rejected": "yes"},
        {"prompt": "c", "chosen": "yes", "rejected": "but"},
    ]
    (tmp_path / "reward.py").write_text(REWARD)
    options = ["--policy", policy, "--prompts", prompts, "--function", f"{tmp_path / 'reward.py'}:reward"]
    options += ["--max-new-tokens", "8", "--temperature", "1"]
    result = run(capsys, "reward", *options, "--reference", other, "--self-pairs", write(tmp_path / "own.jsonl", own))
    assert result["kl"] > 0
    assert result["agreement"] == 0.5
    # Of a round's pairs, the human ones are not the policy's own.
    mixed = [{**row, "source": "self" if row["prompt"] == "a" else "human"} for row in own]
    options += ["--reference", other]
    round_pairs = write(tmp_path / "mixed.jsonl", mixed)
    assert run(capsys, "reward", *options, "--self-pairs", round_pairs)["agreement"] == 1.0
    options = options[:-2]
    assert 0 < result["tokens"] <= 8
    # The reference is the baseline if no other is named.
    assert result["baseline"] == str(other)
    bare = run(capsys, "reward", *options, "--baseline", other)
    assert (bare["kl"], bare["agreement"]) == (None, None)
    assert bare["win_rate"] == result["win_rate"]
    assert main(["eval", "reward", *map(str, options), "--reference", str(other)]) == 0
    assert "KL to the reference" in capsys.readouterr().out


def test_ifeval_scores_a_policy_and_the_file_of_its_answers_alike(tmp_path, capsys, policy):
    """Greedy answers in the layout that IFEval's own script reads: a line with prompt and response, and no more."""
    asked = write(
        tmp_path / "requests.jsonl", [row(word, "punctuation:no_comma", "startend:quotation") for word in WORDS]
    )
    output = tmp_path / "deep/result.json"
    found = run(capsys, "ifeval", "--policy", policy, "--prompts", asked, "--max-new-tokens", "9", "--output", output)
    answers = [json.loads(line) for line in (tmp_path / "deep/result.responses.jsonl").read_text().splitlines()]
    prompts = [[{"role": "user", "content": f"Request {word}."}] for word in WORDS]
    expected = generate_responses(load_policy(policy), prompts, n=1, max_new_tokens=9, temperature=0.0, seed=0)
    assert answers == [
        {"prompt": prompt["content"], "response": one.text} for [prompt], [one] in zip(prompts, expected, strict=True)
    ]
    again = run(capsys, "ifeval", "--responses", tmp_path / "deep/result.responses.jsonl", "--prompts", asked)
    names = ("policy", "cut", "tokens")
    assert {key: one for key, one in again.items() if key not in names} == {
        key: one for key, one in found.items() if key not in names
    }
    rows = json.loads(output.read_text())["requests"]
    assert [one["key"] for one in rows] == WORDS and "requests" not in found
    assert [one["strict"][0] for one in rows] == ["," not in one["response"] for one in answers]
    rate = np.mean([all(one["strict"]) for one in rows])
    assert (found["value"], found["count"], found["gain"]) == (rate, 6, {})


def test_ifeval_reports_rates_by_hand_and_the_gain_over_a_baseline(tmp_path, capsys):
    requests = [row(0, "punctuation:no_comma", "startend:quotation"), row(1, "punctuation:no_comma")]
    requests += [row(2, "detectable_format:json_format")]
    asked = write(tmp_path / "requests.jsonl", requests)
    texts = {"policy": ['"A river"', "Well, yes:\nA river", "[" * 3000], "baseline": ["A river", "a, b", ""]}
    files = [
        write(tmp_path / f"{who}.jsonl", [{"prompt": f"Request {n}.", "response": one} for n, one in enumerate(side)])
        for who, side in texts.items()
    ]
    command = ["ifeval", "--prompts", asked, "--responses", files[0], "--baseline", files[1]]
    result = run(capsys, *command)
    rates = {
        name: [one["strict"]["rate"], one["loose"]["rate"], one["strict"]["count"]]
        for part in ("by_level", "by_family", "by_type")
        for name, one in result[part].items()
    }
    assert rates == {
        "prompts": [pytest.approx(1 / 3), pytest.approx(2 / 3), 3],
        "instructions": [0.5, 0.75, 4],
        "detectable_format": [0.0, 0.0, 1],
        "punctuation": [0.5, 1.0, 2],
        "startend": [1.0, 1.0, 1],
        "detectable_format:json_format": [0.0, 0.0, 1],
        "punctuation:no_comma": [0.5, 1.0, 2],
        "startend:quotation": [1.0, 1.0, 1],
    }
    assert (result["value"], result["low"]) == (pytest.approx(1 / 3), result["by_level"]["prompts"]["strict"]["low"])
    gain = result["gain"]
    assert [gain["prompts"]["mean"], gain["instructions"]["mean"]] == [pytest.approx(1 / 3), 0.25]
    assert gain["prompts"]["low"] < 0 < gain["prompts"]["high"]
    [errors] = result["checker_errors"].values()
    assert errors["detectable_format:json_format"].startswith("RecursionError")
    assert main(["eval", *command]) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert "prompts 0.333" in table and "no_comma 0.500" in table
    assert "1 checks failed and count as not followed. key 2, detectable_format:json_format: RecursionError" in table


def test_ifeval_counts_a_missing_answer_as_one_that_follows_nothing(tmp_path, capsys):
    """No room for the second prompt: it is named, and its empty answer is in the file that other scripts read."""
    small = build_tiny_model(tmp_path / "small", seed=0, context=48)
    requests = [row(0, "punctuation:no_comma"), row(1, "punctuation:no_comma", prompt="x" * 200)]
    asked = write(tmp_path / "requests.jsonl", requests)
    result = run(capsys, "ifeval", "--policy", small, "--prompts", asked, "--output", tmp_path / "o.json")
    answers = [json.loads(line) for line in (tmp_path / "o.responses.jsonl").read_text().splitlines()]
    assert (result["failed"], answers[1]["response"]) == ({"too_long": [1]}, "")
    assert result["by_level"]["prompts"]["strict"]["count"] == 2
    assert json.loads((tmp_path / "o.json").read_text())["requests"][1]["strict"] == [False]


def test_ifeval_names_the_missing_answers_of_both_sides(tmp_path, capsys):
    """A gain over a baseline that did not answer is no gain: who reads it must see that."""
    asked = write(tmp_path / "requests.jsonl", [row(n, "punctuation:no_comma") for n in range(3)])
    files = [
        write(tmp_path / f"{who}.jsonl", [{"prompt": f"Request {n}.", "response": one, "finish_reason": "filtered"}
                                          for n, one in enumerate(texts)])
        for who, texts in (("policy", [None, "a", "b"]), ("baseline", ["a", None, "b"]))
    ]  # fmt: skip
    command = ["ifeval", "--prompts", asked, "--responses", files[0], "--baseline", files[1], "--max-failed", "0.5"]
    result = run(capsys, *command)
    assert (result["failed"], result["unanswered"]) == ({"filtered": [0, 1]}, {"policy": [0], "baseline": [1]})
    assert main(["eval", *command]) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert "1 filtered (policy, row 0), 1 filtered (baseline, row 1)" in table


def test_ifeval_refuses_a_baseline_with_other_answers_before_the_policy_answers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TransformersGenerator, "generate", lambda *_, **options: pytest.fail("it answered"))
    asked = write(tmp_path / "requests.jsonl", [row(word, "punctuation:no_comma") for word in WORDS])
    baseline = write(tmp_path / "baseline.jsonl", [answer_to(word) for word in (*WORDS, "lake")])
    policy = build_tiny_model(tmp_path / "tiny")
    refused = run(capsys, "ifeval", "--policy", policy, "--prompts", asked, "--baseline", baseline, code=2)
    assert "'Request lake.' is none of the 6 prompts" in refused


@pytest.fixture
def evaluated(monkeypatch):
    """Replaces the runner; returns what the command calls it with."""
    calls = []

    def run_evaluation(job):
        calls.append((job.settings, job.subject))
        raise InputError("stop here")

    monkeypatch.setattr("sgpo.evaluate.runner.run_evaluation", run_evaluation)
    monkeypatch.setattr("sgpo.evaluate.runner.Job.check", lambda job: [])

    def call(*arguments):
        assert main(["eval", *arguments]) == 2
        return calls[-1]

    return call


COMMANDS = {
    "alpaca": ({"instructions": "i"}, ["--policy", "p", "--name", "n", "--output", "o.json"]),
    "mt_bench": ({"questions": "q"}, ["--policy", "p", "--name", "n", "--output", "o"]),
    "judge": (
        {"prompts": "p", "model": "m", "servers": ["http://x/v1"], "baseline": "b"},
        ["--policy", "p", "--output", "o.json"],
    ),
    "reward": ({"prompts": "p", "model": "m", "baseline": "b"}, ["--policy", "p"]),
    "ifeval": ({"prompts": "p"}, ["--policy", "p"]),
    "preferences": ({"pairs": "p"}, ["--policy", "p", "--reference", "r"]),
}


def flags_of(keys):
    return [
        word
        for key, value in keys.items()
        for word in (f"--{key.replace('_', '-')}", *(value if isinstance(value, list) else [str(value)]))
    ]


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_command_line_and_a_recipe_have_the_same_defaults(kind, evaluated):
    keys, others = COMMANDS[kind]
    settings, subject = evaluated(kind.replace("_", "-"), *flags_of(keys), *others)
    recipe = RunConfig(
        output="o", model={"path": "r"}, data={"seeds": "s", "prompts": "p"}, evaluate=[{"kind": kind, **keys}]
    )
    [wanted] = recipe.evaluate
    options = ("read_options",) if kind in ("judge", "reward") else ()
    for name in [*EvaluateConfig.keys_of(kind), *options]:
        if name != "options":
            assert getattr(settings, name) == getattr(wanted, name), name
    assert subject.generation == recipe.generation
    leader = recipe.leader
    assert (subject.beta, subject.max_length, subject.space) == (leader.beta, leader.max_length, recipe.follower.space)
    assert subject.model == recipe.model.at("p")


def test_every_key_of_a_recipe_is_a_flag(evaluated):
    keys = {"prompts": "p", "model": "m", "servers": ["http://x/v1", "http://y/v1"], "baseline": "b", "split": "test"}
    keys |= {"template": "t", "temperature": 0.2, "top_p": 0.5, "max_new_tokens": 7}
    options = {"max_tokens": 9, "temperature": 0.3, "seed": 4, "timeout": 5.0, "retries": 1, "concurrency": 2}
    options |= {"pause": 0.5, "request": {"n": 2}}
    flags = [{"temperature": "--judge-temperature", "seed": "--judge-seed"}.get(key, f"--{key}") for key in options]
    flags = [flag.replace("_", "-") for flag in flags]
    values = [json.dumps(value) for value in options.values()]
    generation = {"backend": "server", "server_command": "run", "server_dialect": "openai", "batch_size": 3}
    generation["server_options"] = {"timeout": 2}
    more = [word for pair in zip(flags, values, strict=True) for word in pair]
    more += [
        word
        for key, value in generation.items()
        for word in (f"--{key.replace('_', '-')}", value if isinstance(value, str) else json.dumps(value))
    ]
    more += ["--policy-servers", "http://z/v1", "--logprobs", "--dtype", "bfloat16", "--trust-remote-code"]
    settings, subject = evaluated("judge", *flags_of(keys), *more, "--policy", "p", "--output", "o.json")
    assert settings == EvaluateConfig(kind="judge", logprobs=True, options=options, **keys)
    assert subject.generation == GenerationConfig(servers=["http://z/v1"], **generation)
    assert (subject.model.dtype, subject.model.trust_remote_code) == ("bfloat16", True)


def test_older_flags_still_work(evaluated):
    new = ["--prompts", "p", "--model", "m", "--output", "o.json", "--backend", "server"]
    settings, subject = evaluated(
        "judge", *new, "--first", "a", "--second", "b", "--server", "http://x/v1", "--policy-server", "http://y/v1",
        "--dialect", "openai",
    )  # fmt: skip
    assert (subject.model.path, settings.baseline, settings.servers) == ("a", "b", ["http://x/v1"])
    assert (subject.generation.servers, subject.generation.server_dialect) == (["http://y/v1"], "openai")
    settings, subject = evaluated(
        "reward", "--policy", "p", "--prompts", "p", "--baseline", "b", "--reward-model", "m", "--dtype", "float16",
        "--label", "1", "--backend", "server", "--server", "http://y/v1",
    )  # fmt: skip
    assert (settings.model, subject.generation.servers) == ("m", ["http://y/v1"])
    # The reward model has the policy's dtype unless --reward-dtype names another.
    assert settings.options == {"dtype": "float16", "label": 1}


def test_a_value_out_of_range_is_refused_as_in_a_recipe(capsys):
    options = ["--policy", "p", "--prompts", "p", "--baseline", "b", "--model", "m"]
    assert "eval: --top-p is 2.0; allowed: a number > 0 and <= 1." in run(
        capsys, "reward", *options, "--top-p", "2", code=2
    )
    assert "sgpo eval reward needs --model or --function, and" in run(
        capsys, "reward", *options, "--function", "f", code=2
    )
    assert "--servers is missing; sgpo eval judge needs it." in run(capsys, "judge", *options, code=2)
    assert "--policy is missing" in run(capsys, "reward", *options[2:], code=2)
    preferences = ["--policy", "p", "--reference", "r", "--pairs", "p", "--beta", "0"]
    assert "eval: --beta is 0.0; allowed: a number > 0" in run(capsys, "preferences", *preferences, code=2)
    assert "--pairs is missing; sgpo eval preferences" in run(capsys, "preferences", *preferences[:4], code=2)
    preferences[-2:] = ["--max-length", "0"]
    assert "eval: --max-length is 0; allowed: a whole number >= 1" in run(capsys, "preferences", *preferences, code=2)


def test_a_message_names_flags_as_they_are_typed(capsys):
    judge = ["--policy", "p", "--prompts", "p", "--baseline", "b", "--model", "m", "--servers", "http://x/v1"]
    reward = [*judge[:6], "--function", "f.py:f"]
    cases = [
        ("judge", [*judge, "--judge-temperature", "-1"], "--judge-temperature is -1.0; allowed: a number >="),
        ("judge", [*judge, "--backend", "server"], "--policy-servers is missing; backend 'server' needs it."),
        (
            "judge",
            [*judge, "--output", "o.json", "--price-in", "1"],
            "--price-in is 1.0 and --price-out None; allowed: ",
        ),
        ("reward", [*reward[:6], "--model", "m", "--reward-max-length", "0"], "--reward-max-length is 0; allowed: "),
        ("reward", [*reward, "--label", "1"], "--label is given with --function, which takes none"),
        ("mt-bench", ["--policy", "p", "--name", "n", "--output", "o"], "--questions is missing; sgpo eval mt-bench"),
    ]
    for kind, arguments, message in cases:
        assert f"sgpo eval: {message}" in run(capsys, kind, *arguments, "--output", "o.json", code=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory, policy):
    """Right and wrong inputs by name, for commands in which `{name}` stands for a path."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "reward.py").write_text(REWARD)
    asked = [{"prompt": word, "instruction": word} for word in WORDS]
    found = {
        "policy": policy,
        "prompts": write(folder / "prompts.jsonl", asked),
        "pairs": write(folder / "pairs.jsonl", pairs_of(WORDS)),
        "answers": write(folder / "answers.jsonl", [{**row, "output": "Yes."} for row in asked]),
        "mute": build_tiny_model(folder / "mute", chat_template=False),
        "broken": shutil.copytree(policy, folder / "broken"),
        "ranked": build_tiny_classifier(folder / "ranked", seed=3),
        "requests": write(folder / "requests.jsonl", [row(word, "punctuation:no_comma") for word in WORDS]),
        "wrong": write(
            folder / "wrong.jsonl", [row(0, "punctuation:no_comma") | {"instruction_id_list": ["no_comma"]}]
        ),
    }
    found["responses"] = write(folder / "responses.jsonl", [answer_to(word) for word in WORDS])
    found["fewer"] = write(folder / "fewer.jsonl", [answer_to(word) for word in WORDS[1:]])
    found["others"] = write(folder / "others.jsonl", [answer_to(word) for word in [*WORDS, "x", "y"]])
    (found["broken"] / "model.safetensors").unlink()
    return {**found, "folder": folder}


REWARDED = "reward --policy {policy} --prompts {prompts} --function {folder}/reward.py:reward "
JUDGED = "judge --policy {policy} --prompts {prompts} --model j --servers http://127.0.0.1:9/v1 --retries 0 --yes "
SCORED = "preferences --pairs {pairs} --reference {policy} "
MODELLED = "reward --policy {policy} --baseline {policy} --prompts {prompts} "
FOUND_EARLY = {
    REWARDED: "baseline is missing; allowed: a file of answers, or a policy",
    MODELLED + "--function nofile.py:f": "nofile.py does not exist",
    MODELLED + "--function {folder}/reward.py:nope": "has no function 'nope'",
    MODELLED + "--model {policy}": "lacks 1 of its weights (first: score.weight); allowed: a complete sequence",
    MODELLED + "--model {ranked} --label 3": "label is 3; allowed: 0 to 0",
    MODELLED + "--model nomodel": "reward model 'nomodel' (Hugging Face Hub id, and no directory",
    REWARDED + "--baseline nobase": "model 'nobase' (Hugging Face Hub id, and no directory",
    REWARDED + "--baseline ./nobase": "baseline './nobase' does not exist",
    REWARDED + "--baseline ans.json": "ans.json cannot be read",
    REWARDED + "--baseline {mute}": "has no chat template",
    REWARDED + "--baseline {broken}": "model.safetensors",
    REWARDED + "--baseline {answers} --reference nope": "model 'nope' (Hugging Face Hub id, and no directory",
    REWARDED + "--baseline {answers} --reference {answers}": "answers.jsonl' is a file; allowed: a directory",
    JUDGED + "--output {folder}/o.json": "baseline is missing",
    JUDGED + "--output {folder}/o.json --baseline nobase.json": "nobase.json cannot be read",
    JUDGED + "--output {folder}/o.json --baseline {answers}": "no server answers (http://127.0.0.1:9/v1: no connection",
    JUDGED + "--output {folder}/o.json --baseline {answers} --price-in 1": "--price-in is 1.0 and --price-out None",
    SCORED + "--policy nope": "model 'nope' (Hugging Face Hub id, and no directory",
    SCORED + "--policy {pairs}": "a file of answers; allowed with 'preferences': a folder or Hub id",
    SCORED + "--policy {broken}": "model.safetensors",
    "ifeval --prompts {wrong} --policy {policy}": "wrong.jsonl line 1: the instruction 'no_comma' is unknown",
    "ifeval --prompts {prompts} --policy {policy}": "prompts.jsonl has no column 'key'; allowed: IFEval's, key, prompt",
    "ifeval --prompts {requests}": "--policy is missing",
    "ifeval --responses {responses}": "--prompts is missing; sgpo eval ifeval needs it",
    "ifeval --prompts {requests} --policy nope": "model 'nope' (Hugging Face Hub id, and no directory",
    "ifeval --prompts {requests} --responses {fewer}": "lacks an answer to 1 of 6 prompts, rows 0 ('Request bridge.')",
    "ifeval --prompts {requests} --responses {others}": "others.jsonl line 7: 'Request x.' is none of the 6 prompts, "
    "as are 2 of 8 in all; allowed: answers to these alone",
    "ifeval --prompts {requests} --responses {responses} --top-p 0.9": "--top-p goes with a policy that answers, and ",
    "ifeval --prompts {requests} --responses {responses} --batch-size 4": "--batch-size goes with a policy",
    "reward --prompts {prompts} --policy {responses} --reference nope --function f:g --top-p 0.9": "no module 'f'",
    "ifeval --prompts {requests} --responses {responses} --seed 0": "--seed goes with a policy",
    "ifeval --prompts {requests} --responses {responses} --dtype bfloat16": "--dtype goes with a policy",
    "ifeval --prompts {requests} --responses {responses} --baseline {fewer}": "lacks an answer to 1 of 6 prompts",
    "ifeval --prompts {requests} --responses {responses} --output {folder}/o": "o'; allowed: a name that ends in .json",
    "alpaca --policy {policy} --instructions {prompts} --output {folder}/o.json --name=": "--name is missing",
}  # fmt: skip


@pytest.mark.parametrize("command", FOUND_EARLY)
def test_a_wrong_input_is_found_before_any_model_runs(capsys, monkeypatch, files, command):
    """A model that takes hours must not run before a mistake that can be seen at once."""
    ran = []
    real = generators.load_policy

    def load(path, **options):
        ran.extend([path] if options.get("device") != "meta" else [])
        return real(path, **options)

    monkeypatch.setattr(generators, "load_policy", load)
    refused = run(capsys, *command.format(**files).split(), code=2)
    assert FOUND_EARLY[command] in refused
    assert ran == []


def pairs_of(words):
    rows = [{"prompt": f"Tell me of the {word}.", "chosen": f"The {word} is old.", "rejected": "No."} for word in words]
    return [{**row, "source": "odd" if place % 2 else "even"} for place, row in enumerate(rows)]


def gaps_by_hand(policy, reference, rows, beta, max_length=None):
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    totals = []
    for side in ("chosen", "rejected"):
        texts = [row[side] for row in rows]
        models = map(load_policy, (policy, reference))
        own, base = (score_responses(model, prompts, texts, max_length=max_length).logps for model in models)
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


@pytest.mark.parametrize("side", ["prompt", "rejected"])
def test_a_pair_that_is_too_long_is_named_by_its_line(tmp_path, capsys, policy, other, side):
    """Of either response; an empty line is no row, and counts as a line."""
    rows = pairs_of(WORDS)
    rows[3][side] = "bridge " * 300
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    options = ["--policy", other, "--reference", policy, "--pairs", file]
    assert f"{file} line 5: " in run(capsys, "preferences", *options, code=2)


def test_pairs_are_cut_at_the_length_at_which_a_run_cuts_them(tmp_path, capsys):
    models = [build_tiny_model(tmp_path / str(seed), seed=seed, context=2048) for seed in (0, 1)]
    rows = [{**row, "chosen": "The old bridge. " * 300} for row in pairs_of(WORDS[:2])]
    options = ["--policy", models[1], "--reference", models[0], "--pairs", write(tmp_path / "pairs.jsonl", rows)]
    losses, beta = {}, 0.001
    for length in (LeaderConfig().max_length, 40):
        flags = ["--beta", beta, *(["--max-length", length] if length == 40 else [])]
        result = run(capsys, "preferences", *options, *flags)
        losses[length] = result["preferences"]["calibration"]["temperature"]["log_loss_raw"]
        gaps = gaps_by_hand(models[1], models[0], rows, beta, length)
        assert losses[length] == pytest.approx(np.logaddexp(0, -gaps).mean(), rel=1e-6)
    whole = gaps_by_hand(models[1], models[0], rows, beta)
    assert len({round(loss, 6) for loss in (*losses.values(), np.logaddexp(0, -whole).mean())}) == 3


@pytest.mark.parametrize("kind", ["preferences", "reward"])
def test_self_pairs_without_a_self_annotated_pair_are_refused(tmp_path, capsys, kind):
    """A certificate or an agreement that was asked for must not be silently absent."""
    human = write(tmp_path / "human.jsonl", [{**row, "source": "human"} for row in pairs_of(WORDS)])
    keys, others = COMMANDS[kind]
    refused = run(capsys, kind, *flags_of(keys), *others, "--self-pairs", human, code=2)
    assert f"--self-pairs {human} has no pair of source 'self'; allowed: at least one." in refused


def test_pairs_that_are_all_ordered_right_are_reported_without_a_number_for_infinity(tmp_path, capsys, policy, other):
    """No finite scale fits gaps that all have one sign best."""
    pairs = write(tmp_path / "pairs.jsonl", pairs_of(WORDS[:1]))
    found = {}
    for one, base in ((policy, other), (other, policy)):
        options = ["--policy", one, "--reference", base, "--pairs", pairs]
        result = run(capsys, "preferences", *options)
        found[result["value"]] = result["preferences"]["calibration"]["temperature"]
        assert main(["eval", "preferences", *map(str, options)]) == 0
        assert "held-out pairs" in capsys.readouterr().out
    assert set(found) == {0.0, 1.0}
    assert found[1.0]["scale"] is None


def test_preferences_without_sources_or_self_pairs_reports_neither(tmp_path, capsys, policy, other):
    rows = [{key: value for key, value in row.items() if key != "source"} for row in pairs_of(WORDS)]
    options = ["--policy", other, "--reference", policy, "--pairs", write(tmp_path / "pairs.jsonl", rows)]
    result = run(capsys, "preferences", *options)
    assert result["preferences"]["by_source"] == {}
    assert result["certificate"] is None
    assert "allowed: one named 'topic'" in run(capsys, "preferences", *options, "--source-column", "topic", code=2)
