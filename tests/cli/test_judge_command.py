"""`sgpo eval judge`: scripted judges whose verdicts are known, a real one that answers nonsense, and the cache."""

import io
import json
import math
import subprocess
import sys

import pytest
from rich.console import Console

from faulty_server import Reply, completion, faulty
from live_server import serving
from sgpo.cli import main
from sgpo.evaluate.results import result_table
from sgpo.preferences.annotators.verdicts import read_letter
from tiny_model import build_tiny_model

PROMPTS = [f"Question {row}?" for row in range(6)]
GOOD, BAD = [f"good {row}" for row in range(6)], [f"bad {row}" for row in range(6)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def answers(path, texts, name):
    rows = zip(PROMPTS, texts, strict=True)
    return write(
        path,
        [
            {"prompt": prompt, "response": text, "generator": name, "finish_reason": "stop" if text else "filtered"}
            for prompt, text in rows
        ],
    )


@pytest.fixture
def judge(tmp_path, capsys):
    """Runs the command on two files of answers; returns what it printed as JSON."""
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])

    def run(url, *more, first=GOOD, second=BAD, output="result.json", code=0):
        one, other = answers(tmp_path / "one.jsonl", first, "one"), answers(tmp_path / "other.jsonl", second, "other")
        arguments = ["--prompts", prompts, "--policy", one, "--baseline", other, "--servers", url, "--model", "j"]
        assert main(["eval", "judge", *arguments, "--output", str(tmp_path / output), "--json", *more]) == code
        printed = capsys.readouterr()
        return json.loads(printed.out) if code == 0 else printed.err

    return run


def asked_of(body):
    return body["messages"][0]["content"]


def prefers_good(number, body):
    text = asked_of(body)
    return completion("Because.\nVerdict: " + ("A" if text.index("good") < text.index("bad") else "B"))


def first_logprobs(**law):
    """A completion of one letter with the log-probabilities of its first token."""
    tops = [{"token": token, "logprob": math.log(share)} for token, share in law.items()]
    choice = {"index": 0, "message": {"role": "assistant", "content": "A"}, "finish_reason": "length"}
    choice["logprobs"] = {"content": [{"token": "A", "logprob": 0.0, "top_logprobs": tops}]}
    return Reply(json.dumps({"choices": [choice]}).encode())


def test_a_consistent_judge_gives_its_win_rate_and_no_position_bias(judge, tmp_path):
    with faulty(prefers_good) as server:
        result = judge(server.url, "--yes")
    assert (result["win_rate"], result["wins"], result["ties"], result["losses"]) == (1.0, 6, 0, 0)
    assert (result["inconsistent"], result["failed"], result["verdicts"], result["first_preferred"]) == (0, {}, 12, 6)
    assert result["front_share"] == 0.5
    assert (result["policy"], result["baseline"], result["judge"]) == ("one", "other", "j")
    stored = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert {key: value for key, value in stored.items() if key != "duels"} == result
    assert [duel["result"] for duel in stored["duels"]] == [1.0] * 6


def test_swapping_the_policies_turns_wins_into_losses(judge):
    with faulty(prefers_good) as server:
        result = judge(server.url, "--yes", first=BAD, second=GOOD)
    assert (result["win_rate"], result["wins"], result["losses"]) == (0.0, 0, 6)


def test_a_judge_that_prefers_the_answer_in_front_shows_as_position_bias_and_ties(judge):
    with faulty(lambda number, body: completion("Verdict: A")) as server:
        result = judge(server.url, "--yes")
    assert (result["win_rate"], result["ties"], result["inconsistent"]) == (0.5, 6, 6)
    assert result["front_share"] == 1.0
    assert result["front_low"] > 0.5
    assert result["first_preferred"] == 12


def test_equal_answers_are_ties_without_a_request(judge):
    with faulty(prefers_good) as server:
        result = judge(server.url, "--yes", second=[*GOOD[:2], *BAD[2:]])
        assert len(server.asked) == 8
    assert (result["identical"], result["ties"], result["win_rate"]) == (2, 2, pytest.approx(5 / 6))


def test_what_cannot_be_read_is_counted_and_left_out(judge):
    def answer(number, body):
        return completion("both are fine") if "good 3" in asked_of(body) else prefers_good(number, body)

    with faulty(answer) as server:
        result = judge(server.url, "--yes")
    assert (result["failed"], result["judged"], result["prompts"], result["win_rate"]) == (
        {"no_verdict": [3]},
        5,
        6,
        1.0,
    )


FILTER = json.dumps({"error": {"code": "content_filter", "message": "The prompt triggered our policy"}}).encode()


def test_what_the_judge_filters_is_named_and_asked_again_only_if_the_user_says_so(judge):
    def filters(number, body):
        return Reply(FILTER, status=400) if "good 3" in asked_of(body) else prefers_good(number, body)

    with faulty(filters) as server:
        first = judge(server.url, "--yes")
        assert len(server.asked) == 12
        assert judge(server.url) == first
        assert len(server.asked) == 12
    assert (first["failed"], first["judged"], first["win_rate"], first["verdicts"]) == ({"filtered": [3]}, 5, 1.0, 10)
    with faulty(prefers_good) as server:
        again = judge(server.url, "--yes", "--retry-failed")
        assert len(server.asked) == 2
    assert (again["failed"], again["judged"]) == ({}, 6)


def test_too_many_failures_stop_the_comparison_and_say_how_to_go_on(judge):
    def filters(number, body):
        return Reply(FILTER, status=400) if "bad" in asked_of(body) else prefers_good(number, body)

    with faulty(filters) as server:
        for attempt in range(2):
            message = judge(server.url, "--yes", "--concurrency", "1", code=2)
            assert "of 12 requests failed (filtered" in message and "The prompt triggered our policy" in message
            assert "max_failed" in message and ("retry_failed asks for them again" in message or not attempt)
        asked = len(server.asked)
        judge(server.url, "--yes", "--max-failed", "1")
        assert asked < 12 and len(server.asked) == 12


def test_comparisons_over_max_chars_are_not_asked_for(judge):
    with faulty(prefers_good) as server:
        result = judge(server.url, "--yes", "--max-chars", "3000", first=[*GOOD[:5], "good" * 1000])
        assert len(server.asked) == 10
    assert (result["failed"], result["judged"]) == ({"too_long": [5]}, 5)


def without(rows):
    return [None if row in rows else text for row, text in enumerate(GOOD)]


@pytest.mark.parametrize(
    ("flags", "first", "second", "said"),
    [
        (["--max-chars", "20"], GOOD, BAD, "6 of 6 comparisons failed (too_long 6)"),
        (["--max-chars", "3000"], ["good" * 1000] * 2 + GOOD[2:], BAD, "2 of 6 comparisons failed (too_long 2)"),
        ([], without([1]), without([4]), "2 of 6 comparisons failed (filtered 2)"),
        (["--max-chars", "3000"], without([1]), ["bad" * 2000, *BAD[1:]], "failed (too_long 1, filtered 1)"),
    ],
)
def test_the_limit_holds_for_what_fails_without_a_request(judge, flags, first, second, said):
    """Either side, or one reason, may be within the limit: all comparisons without a result count together."""
    with faulty(prefers_good) as server:
        assert said in judge(server.url, "--yes", *flags, first=first, second=second, code=2)
        assert server.asked == []
        result = judge(server.url, "--yes", *flags, "--max-failed", "1", first=first, second=second)
    assert result["judged"] == 6 - sum(map(len, result["failed"].values()))


def test_the_limit_holds_for_comparisons_and_what_was_asked_is_kept(judge):
    """Two failed requests of twelve are within the limit, the two comparisons of six that they spoil are not."""

    def filters(number, body):
        text = asked_of(body)
        spoilt = ("good 2" in text or "good 3" in text) and text.index("good") < text.index("bad")
        return Reply(FILTER, status=400) if spoilt else prefers_good(number, body)

    with faulty(filters) as server:
        assert "2 of 6 comparisons failed (filtered 2)" in judge(server.url, "--yes", code=2)
        assert len(server.asked) == 12
        result = judge(server.url, "--max-failed", "0.4")
        assert (len(server.asked), result["failed"], result["judged"]) == (12, {"filtered": [2, 3]}, 4)


def test_who_lacks_a_result_is_said_below_the_table(judge, tmp_path, capsys):
    def answer(number, body):
        return completion("both are fine") if "good 3" in asked_of(body) else prefers_good(number, body)

    with faulty(answer) as server:
        flags = ["--yes", "--max-failed", "0.7"]
        result = judge(server.url, *flags, first=without([0, 1]), second=[*BAD[:5], None])
        assert result["unanswered"] == {"policy": [0, 1], "baseline": [5]}
        saved = json.loads((tmp_path / "result.json").read_text())
    shown = io.StringIO()
    Console(file=shown, width=200).print(result_table(saved))
    assert (
        "left out of all other numbers: 2 filtered (policy, rows 0, 1), 1 filtered (baseline, row 5), "
        "1 no verdict (judge, row 3)." in shown.getvalue()
    )


def test_half_a_character_in_a_file_of_answers_is_one_failed_item(judge):
    with faulty(prefers_good) as server:
        result = judge(server.url, "--yes", first=[*GOOD[:5], "good \ud83d"])
    assert (result["failed"], result["judged"]) == ({"not_unicode": [5]}, 5)


def test_a_second_run_asks_nothing_and_needs_no_yes(judge, tmp_path):
    with faulty(prefers_good) as server:
        first = judge(server.url, "--yes")
        again = judge(server.url)
        assert len(server.asked) == 12
    assert again == first
    # The cache knows requests, not servers: no server is there any more.
    assert judge("http://127.0.0.1:9/v1") == first


def test_an_interrupted_comparison_asks_only_for_missing_verdicts(judge, tmp_path):
    def breaks(number, body):
        return prefers_good(number, body) if number < 5 else Reply(b"gone", status=401)

    with faulty(breaks) as server:
        judge(server.url, "--yes", "--concurrency", "1", code=2)
    cache = tmp_path / "result.cache/verdicts.jsonl"
    assert len(cache.read_text().splitlines()) == 5
    # What a kill in the middle of a line leaves.
    with cache.open("a") as file:
        file.write('{"key": "12')
    with faulty(prefers_good) as server:
        result = judge(server.url, "--yes")
        assert len(server.asked) == 7
    assert result["wins"] == 6
    assert all(json.loads(line)["answer"]["texts"] for line in cache.read_text().splitlines())
    assert len(cache.read_text().splitlines()) == 12


def test_a_damaged_line_within_the_cache_is_named(judge, tmp_path):
    with faulty(prefers_good) as server:
        judge(server.url, "--yes")
        cache = tmp_path / "result.cache/verdicts.jsonl"
        lines = cache.read_text().splitlines(keepends=True)
        cache.write_text("".join([lines[0], "{nonsense\n", *lines[1:]]))
        assert "verdicts.jsonl line 2: " in judge(server.url, "--yes", code=2)


def test_without_a_terminal_nothing_is_sent_unless_yes(judge):
    with faulty(prefers_good) as server:
        message = judge(server.url, "--price-in", "2.5", "--price-out", "10", code=2)
        assert not server.asked
    assert "12 requests" in message
    assert "--yes" in message
    # 12 answers of at most 256 tokens at 10 per million, in addition to the tokens that are read.
    assert "at most 3,072 to generate, at most about 0.03" in message


class Terminal(io.StringIO):
    """Standard input with typed text."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("typed", "code", "requests"), [("y\n", 0, 12), ("\n", 2, 0), ("no\n", 2, 0), ("", 2, 0)])
def test_at_a_terminal_only_a_yes_sends_anything(judge, monkeypatch, typed, code, requests):
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    with faulty(prefers_good) as server:
        judge(server.url, code=code)
        assert len(server.asked) == requests


@pytest.mark.slow
def test_a_killed_comparison_sends_no_request_twice(judge, tmp_path):
    judge_of = {"process": None}

    def kills(number, body):
        if number == 7:
            judge_of["process"].kill()
            return Reply(None)
        return prefers_good(number, body)

    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    one, other = answers(tmp_path / "one.jsonl", GOOD, "one"), answers(tmp_path / "other.jsonl", BAD, "other")
    with faulty(kills) as server:
        command = [sys.executable, "-m", "sgpo", "eval", "judge", "--prompts", prompts]
        command += ["--policy", one, "--baseline", other, "--servers", server.url, "--model", "j"]
        command += ["--output", str(tmp_path / "result.json")]
        judge_of["process"] = subprocess.Popen(
            [*command, "--yes", "--concurrency", "1"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        assert judge_of["process"].wait(timeout=120) == -9
        paid = len((tmp_path / "result.cache/verdicts.jsonl").read_text().splitlines())
        assert paid == 7
        assert not (tmp_path / "result.json").exists()
    with faulty(prefers_good) as server:
        assert judge(server.url, "--yes")["wins"] == 6
        assert len(server.asked) == 12 - paid


def test_log_probabilities_weight_wins_by_the_share_of_the_letters(judge):
    def answer(number, body):
        assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)
        good_first = asked_of(body).index("good") < asked_of(body).index("bad")
        return first_logprobs(A=0.7, B=0.1, C=0.05) if good_first else first_logprobs(A=0.2, B=0.6)

    with faulty(answer) as server:
        result = judge(server.url, "--yes", "--logprobs")
    assert result["win_rate"] == pytest.approx((7 / 8 + 6 / 8) / 2)
    assert (result["wins"], result["inconsistent"], result["failed"]) == (6, 0, {})
    assert result["front_share"] == pytest.approx((7 / 8 + 2 / 8) / 2)


def test_a_server_without_log_probabilities_is_refused(judge):
    with faulty(lambda number, body: completion("A")) as server:
        refused = judge(server.url, "--yes", "--logprobs", code=2)
    assert "(no_verdict" in refused and "needs a server that gives logprobs of the first token" in refused


def test_one_answer_without_log_probabilities_is_one_without_a_verdict(judge):
    def answer(number, body):
        return completion("") if "good 3" in asked_of(body) else first_logprobs(A=0.7, B=0.1)

    with faulty(answer) as server:
        result = judge(server.url, "--yes", "--logprobs")
    assert (result["failed"], result["judged"]) == ({"no_verdict": [3]}, 5)


@pytest.mark.parametrize(
    ("law", "share"),
    [
        ({"A": 0.5, "B": 0.25}, 2 / 3),
        ({"A": 0.3, " A": 0.3, "B": 0.2}, 0.75),
        ({"B": 0.9}, 0.0),
        ({"The": 0.6, "A": 0.3, "B": 0.1}, None),
        ({"a": 0.9, "A": 0.05}, None),
        ({}, None),
    ],
)
def test_a_letter_counts_only_where_the_judge_would_say_one(law, share):
    read = read_letter({token: math.log(value) for token, value in law.items()})
    assert read == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"prompt": PROMPTS[0], "response": "x"}], "lacks an answer to 5 of 6 prompts, rows 1 ("),
        ([{"prompt": PROMPTS[0], "response": "x"}] * 2, "line 2: the prompt 'Question 0?' is that of"),
        ([{"prompt": PROMPTS[0], "output": 3}], "line 1: 'output' is 3"),
        ([{"prompt": 7, "response": "x"}], "line 1: 'instruction' or 'prompt' is 7"),
    ],
)
def test_a_wrong_file_of_answers_is_refused_by_row(tmp_path, capsys, rows, words):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    if "output" in rows[0]:
        rows = rows + [{"prompt": prompt, "output": "x"} for prompt in PROMPTS[1:]]
    path = write(tmp_path / "answers.jsonl", rows)
    arguments = ["--prompts", prompts, "--policy", path, "--baseline", path, "--servers", "http://x/v1"]
    arguments += ["--model", "j"]
    assert main(["eval", "judge", *arguments, "--output", str(tmp_path / "o.json")]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_server_that_answers_nonsense_gives_no_verdicts_and_no_win_rate(judge, tmp_path):
    model = build_tiny_model(tmp_path / "judge", context=2048)
    with serving(model) as url:
        fewer = ["--model", str(model), "--max-tokens", "4", "--concurrency", "1"]
        few = judge(url, "--yes", *fewer, first=[*GOOD[:2], *BAD[2:]], code=2)
        result = judge(url, "--yes", *fewer, "--max-failed", "1", first=[*GOOD[:2], *BAD[2:]])
        refused = judge(url, "--yes", *fewer, "--logprobs", first=[*GOOD[:1], *BAD[1:]], output="l.json", code=2)
    assert "requests failed (no_verdict" in few
    assert (result["failed"], result["verdicts"], result["identical"]) == ({"no_verdict": [0, 1]}, 0, 4)
    assert (result["judged"], result["win_rate"]) == (4, 0.5)
    assert result["front_share"] is None
    assert "log-probability judging needs a server that gives logprobs" in refused


def test_policies_are_compared_and_their_answers_kept(tmp_path, capsys):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS[:2]])
    first, second = (build_tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "other")))
    options = ["--prompts", prompts, "--policy", str(first), "--baseline", str(second), "--max-new-tokens", "4"]
    output = ["--model", "j", "--output", str(tmp_path / "result.json"), "--json", "--yes"]
    with faulty(lambda number, body: completion("Verdict: tie")) as server:
        assert main(["eval", "judge", *options, *output, "--servers", server.url]) == 0
        first_result = json.loads(capsys.readouterr().out)
        assert (first_result["ties"], first_result["cut"] > 0) == (2, True)
        assert len(server.asked) == 4
    kept = list((tmp_path / "result.cache").glob("answers-*.json"))
    assert len(kept) == 2
    # With their weights gone, only kept answers can answer; both are found again.
    times = [path.stat().st_mtime_ns for path in kept]
    assert main(["eval", "judge", *options, *output, "--servers", "http://127.0.0.1:9/v1"]) == 0
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert json.loads(capsys.readouterr().out) == first_result
    # Answers that an older version kept lack the count of those cut at the limit.
    for path in kept:
        rows = json.loads(path.read_text())
        path.write_text(json.dumps([{key: row[key] for key in ("prompt", "response", "generator")} for row in rows]))
    assert main(["eval", "judge", *options, *output, "--servers", "http://127.0.0.1:9/v1"]) == 0
    assert json.loads(capsys.readouterr().out) == {**first_result, "cut": None}
