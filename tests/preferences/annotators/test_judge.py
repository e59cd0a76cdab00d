import itertools
import re
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest

from faulty_server import Reply, completion, faulty
from live_server import serving
from sgpo.config import AnnotationConfig
from sgpo.config.options import JudgeOptions, VerdictOptions
from sgpo.errors import InputError
from sgpo.preferences.annotators.judge import Judge
from sgpo.preferences.annotators.open import open_annotator
from sgpo.preferences.annotators.verdicts import PairwiseJudge, fill_template, read_template, read_verdict
from sgpo.serving.answers import Answer
from sgpo.serving.client import ServerPool
from tiny_model import build_tiny_model

PROMPTS = [[{"role": "user", "content": "Which?"}], [{"role": "user", "content": "How {many}?"}]]
RESPONSES = [["a", "bbbb", "cc"], ["{second} longer", "x"]]
TEMPLATE = "{prompt}\n#{first}#{second}#\nVerdict: A, Verdict: B?"


def shown(body):
    """The two answers as the default template shows them."""
    (message,) = body["messages"]
    return re.search(
        r"\[Answer A\]\n(.*)\n\[End of answer A\]\n\n\[Answer B\]\n(.*)\n\[End of answer B\]", message["content"], re.S
    ).groups()


def verdict(winner, reason="stop"):
    return completion(f"Both say something.\n\nVerdict: {winner}", reason=reason)


def prefer(key):
    """A judge that prefers the answer with the larger key, whatever the order."""

    def answer(number, body):
        first, second = map(key, shown(body))
        # The later an odd request is asked, the sooner it is answered.
        reply = verdict("tie" if first == second else "A" if first > second else "B")
        return Reply(reply.body, delay=0.02 if number % 2 else 0.0)

    return answer


def counts(**found):
    names = ("comparisons", "ties", "inconsistent", "first_preferred")
    return {**dict.fromkeys(names, 0), **found}


def judge(server, template=None, max_failed=0.2, **options):
    pool = ServerPool([server.url], pause=0.01, retries=1, max_failed=max_failed)
    return Judge(pool, "judge", JudgeOptions(**options), template=template)


def test_a_judge_with_a_preference_is_consistent_and_rewards_are_shares_of_wins():
    with faulty(prefer(len)) as server:
        found = judge(server)(PROMPTS, RESPONSES)
    np.testing.assert_array_equal(found.rewards, [0, 1, 0.5, 1, 0])
    assert found.counts == counts(comparisons=4, first_preferred=4)


def test_a_judge_that_prefers_the_answer_in_front_gives_ties():
    with faulty(lambda number, body: verdict("A")) as server:
        found = judge(server)(PROMPTS, RESPONSES)
    np.testing.assert_array_equal(found.rewards, [0.5] * 5)
    assert found.counts == counts(comparisons=4, ties=4, inconsistent=4, first_preferred=8)


def test_a_judge_that_sees_no_difference_ties_consistently():
    with faulty(lambda number, body: verdict("tie")) as server:
        found = judge(server)(PROMPTS, RESPONSES)
    assert found.counts == counts(comparisons=4, ties=4)


def test_both_orders_of_every_pair_are_asked_once_with_the_fields_of_the_request():
    with faulty(prefer(len)) as server:
        judge(server, max_tokens=9, temperature=0.5, seed=3, request={"seed": None, "reasoning_effort": "low"})(
            PROMPTS, RESPONSES
        )
    asked = Counter(map(shown, server.asked))
    wanted = [pair for texts in RESPONSES for pair in itertools.permutations(texts, 2)]
    assert asked == Counter(wanted)
    fields = [{name: value for name, value in body.items() if name != "messages"} for body in server.asked]
    assert fields == [{"model": "judge", "max_tokens": 9, "temperature": 0.5, "reasoning_effort": "low"}] * 8


def test_comparisons_without_two_verdicts_do_not_count():
    def answer(number, body):
        # It never says anything sensible where "cc" comes first.
        return completion("I would rather not.") if shown(body)[0] == "cc" else prefer(len)(number, body)

    with faulty(answer) as server:
        found = judge(server, max_failed=0.25)(PROMPTS, RESPONSES)
    np.testing.assert_array_equal(found.rewards, [0, 1, np.nan, 1, 0])
    assert (found.counts["comparisons"], found.counts["no_verdict"]) == (4, 2)


def test_repetitions_are_asked_about_once_and_empty_responses_never():
    with faulty(prefer(len)) as server:
        found = judge(server)(PROMPTS[:1], [["a", "", "bb ", "a", "bb", " \n"]])
    assert sorted(map(shown, server.asked)) == [("a", "bb"), ("bb", "a")]
    np.testing.assert_array_equal(found.rewards, [0, np.nan, 1, 0, 1, np.nan])


def test_comparisons_over_the_limit_are_skipped_and_counted():
    long = [{"role": "user", "content": "Why? " * 20_000}]
    with faulty(prefer(len)) as server:
        found = judge(server, max_chars=2000)([*PROMPTS, long], [["a", "b" * 1990, "cc"], ["d", "eee"], ["f", "g"]])
    assert found.counts == counts(comparisons=2, first_preferred=2, too_long=3)
    np.testing.assert_array_equal(found.rewards, [0, np.nan, 1, 0, 1, np.nan, np.nan])
    assert all(len(body["messages"][0]["content"]) <= 2000 for body in server.asked)


def test_nothing_to_compare_asks_nothing():
    with faulty(prefer(len)) as server:
        found = judge(server)(PROMPTS, [["same", "same"], ["alone"]])
    assert server.asked == []
    assert np.isnan(found.rewards).all()
    assert found.counts["comparisons"] == 0


def test_progress_adds_up_to_the_prompts():
    seen = []
    with faulty(prefer(len)) as server:
        judge(server)(PROMPTS, RESPONSES, progress=seen.append)
    assert sum(seen) == pytest.approx(2)


def test_a_server_that_refuses_ends_the_ranking():
    with (
        faulty(lambda number, body: Reply(b"no such model", status=404)) as server,
        pytest.raises(InputError, match=r"refuses it: status 404: no such model"),
    ):
        judge(server)(PROMPTS, RESPONSES)


@pytest.mark.slow
def test_nonsense_from_a_real_server_is_no_verdict(tmp_path):
    path = build_tiny_model(tmp_path, context=2048)
    with serving(path) as url:
        found = Judge(ServerPool([url], max_failed=1), str(path), JudgeOptions(max_tokens=8))(PROMPTS, RESPONSES)
        with pytest.raises(InputError, match=r"of 8 requests failed \(no_verdict"):
            Judge(ServerPool([url]), str(path), JudgeOptions(max_tokens=8))(PROMPTS, RESPONSES)
    assert np.isnan(found.rewards).all()
    assert found.counts == counts(comparisons=4, no_verdict=4)


def test_options_of_a_recipe_go_to_the_servers_and_to_the_judge():
    options = {"timeout": 5, "retries": 1, "max_tokens": 9, "max_chars": 5000}
    with faulty(prefer(len)) as server:
        settings = {"annotator": "judge", "model": "j", "servers": [server.url], "options": options}
        annotator = open_annotator(AnnotationConfig(**settings))
        np.testing.assert_array_equal(annotator(PROMPTS, RESPONSES).rewards, [0, 1, 0.5, 1, 0])
        assert {body["max_tokens"] for body in server.asked} == {9}


VERDICTS = {
    "Verdict: A": 1.0,
    "verdict: b": 0.0,
    "Because it is short.\nVerdict: tie\n": 0.5,
    "**Verdict: A**": 1.0,
    "**Verdict:** B.": 0.0,
    "Verdict: A\nIn short:\nVerdict: A": 1.0,
    "Verdict: A\nOn second thought\nVerdict: B": None,
    "Verdict: A or B": None,
    "Verdict: A is better than B": None,
    "My verdict: A": None,
    "A": None,
    "Verdict: C": None,
    "Verdict:": None,
    "The first one. Verdict: A": None,
    "": None,
}


@pytest.mark.parametrize("text", VERDICTS)
def test_a_verdict_is_a_line_of_its_own_that_no_other_contradicts(text):
    assert read_verdict(Answer((text,), ("stop",))) == VERDICTS[text]


@pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls"])
def test_an_answer_that_the_judge_did_not_end_has_no_verdict(reason):
    assert read_verdict(Answer(("Verdict: A",), (reason,))) is None


@pytest.mark.parametrize("straight", ["B", "tie", "A", None])
@pytest.mark.parametrize("swapped", ["B", "tie", "A", None])
def test_swapping_two_responses_mirrors_their_result_and_keeps_the_counts(straight, swapped):
    counts, mirrored = Counter(), Counter()
    settle = PairwiseJudge("judge", VerdictOptions()).settle
    given = [
        Answer((f"Verdict: {word}",), ("stop",)) if word else Answer(failure="filtered") for word in (straight, swapped)
    ]
    one, other = settle(given, counts), settle(given[::-1], mirrored)
    assert counts == mirrored
    if one.result is None:
        assert other.result is None and None in (straight, swapped)
        assert one.failure == other.failure == "filtered" and counts["filtered"] == 1
    else:
        assert one.result == 1 - other.result and one.failure is None
        # A result other than a tie takes two verdicts for the same response.
        assert (one.result == 1.0) == (straight == "A" and swapped == "B")


def test_braces_and_backslashes_in_values_are_kept():
    filled = fill_template(TEMPLATE, PROMPTS[1], "{second} \\1 {prompt}", "{first}")
    assert filled == "How {many}?\n#{second} \\1 {prompt}#{first}#\nVerdict: A, Verdict: B?"


def test_a_conversation_is_shown_with_its_roles():
    turns = [{"role": "system", "content": "Be brief."}, *PROMPTS[0]]
    assert fill_template(TEMPLATE, turns, "x", "y").startswith("system: Be brief.\n\nuser: Which?\n#x#y#")


def test_the_built_in_template_passes_its_own_check():
    path = files("sgpo.preferences.annotators") / "judge_template.txt"
    assert read_template(str(path)) == read_template(None)


def test_a_users_template_is_sent(tmp_path):
    (tmp_path / "mine.txt").write_text(TEMPLATE)
    with faulty(lambda number, body: verdict("A")) as server:
        judge(server, template=tmp_path / "mine.txt")([PROMPTS[0]], [["x", "y"]])
    asked = sorted(body["messages"][0]["content"].splitlines()[1] for body in server.asked)
    assert asked == ["#x#y#", "#y#x#"]


TEMPLATES = {
    "a place that is missing": ("{prompt} {first} Verdict: A Verdict: B", "lacks {second}; allowed: all of {prompt}"),
    "an unknown place": (TEMPLATE + "{answer} {score}", "has {answer}, {score}; allowed: {prompt}, {first}, {second}"),
    "no verdict": (
        "{prompt} {first} {second} Say [[A]].",
        "does not contain 'Verdict: A' or 'Verdict: B'; allowed: a text",
    ),
    "no text": (b"\xff", "not valid UTF-8"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_cannot_work_is_refused(name, tmp_path):
    text, message = TEMPLATES[name]
    (tmp_path / "bad.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=re.escape(message)):
        read_template(tmp_path / "bad.txt")


def test_braces_that_name_nothing_are_text(tmp_path):
    (tmp_path / "json.txt").write_text(TEMPLATE + ' {"verdict": {}} {a b}')
    assert read_template(tmp_path / "json.txt").endswith("{a b}")


def test_a_template_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.txt cannot be read"):
        read_template(tmp_path / "nowhere.txt")
