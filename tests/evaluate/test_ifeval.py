"""Instructions that a program can check: the checkers' own results, whatever the response, and bad files refused."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from if_verifiable import IFBenchSample, IFEvalSample, evaluate_output_for_sample

from evaluate.ifeval_kwargs import INSTRUCTIONS, NEED_DATA, row
from refusals import unrefused
from sgpo.errors import InputError
from sgpo.evaluate.ifeval import Request, _checkers, checker, read_requests, score_responses
from sgpo.preferences.annotators.function import FunctionAnnotator

RESPONSES = (
    "Sure, here it is:\nTHE RIVER is wide. The bridge is old, and [name] crossed it.\n\n* one\n* two\n* three",
    '"the river flows on, quietly"',
    "<<A title>>\n\nP.S. My answer is yes. Is there more?",
    "***\nDescribe the river. SECTION 1 *a river* SECTION 2\n***",
    "1, 2, three",
)
STRANGE = {
    "empty": "",
    "white": " \n\t\u2003 ",
    "emoji": "\U0001f600\U0001f389" * 40,
    "half a pair": "The river \ud83d.",
    "long": "a" * 100_000,
    "right to left": "\u0645\u0631\u062d\u0628\u0627. \u05e9\u05dc\u05d5\u05dd",
    "punctuation": "?!.,;:-*#()[]{}\"'`" * 9,
    "asterisks": "*" * 999,
    "digits": "12 34",
    "nested": "[" * 3000,
    "lines": "a" + "\n" * 500 + "b",
    "null": "\x00",
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one(name, kwargs=None):
    return Request(1, "Describe the river.", [name], [INSTRUCTIONS[name] if kwargs is None else kwargs])


def test_results_are_those_of_if_verifiable_for_every_instruction():
    names, benchmark_of = list(INSTRUCTIONS), {}
    for place, name in enumerate(names):
        benchmark_of.setdefault("ifeval" if place < 25 else "ifbench", []).append(name)
    for benchmark, ids in benchmark_of.items():
        request = Request(1, "Describe the river.", ids, [INSTRUCTIONS[name] for name in ids])
        sample = (IFEvalSample if benchmark == "ifeval" else IFBenchSample)(*request)
        for response in RESPONSES:
            [found] = score_responses([request], [response])
            results, scores = evaluate_output_for_sample(benchmark, sample, response)
            assert found.strict == [result.strict_pass for result in results], response
            assert found.loose == [result.loose_pass for result in results], response
            assert (found.share, found.errors) == (pytest.approx(scores.partial_strict), {})


def test_no_response_ends_the_scoring_and_none_is_followed_strictly_alone():
    requests = [one(name) for name in INSTRUCTIONS]
    for what, response in STRANGE.items():
        found = score_responses(requests, [response] * len(requests))
        assert all(strict <= loose for each in found for strict, loose in zip(each.strict, each.loose, strict=True)), (
            what
        )
        if what in ("empty", "white"):
            assert not any(each.loose[0] for each in found)


def test_a_checker_that_fails_is_named_and_its_instruction_not_followed():
    both = Request(1, "x", ["punctuation:no_comma", "detectable_format:json_format"], [{}, {}])
    [found] = score_responses([both], [STRANGE["nested"]])
    assert (found.strict, found.loose) == ([True, False], [True, False])
    assert list(found.errors) == ["detectable_format:json_format"]
    assert found.errors["detectable_format:json_format"].startswith("RecursionError: ")


def test_loose_forgives_a_first_line_a_last_line_and_asterisks():
    quiet = one("punctuation:no_comma")
    for response in ("Sure, gladly:\nThe river.", "The river.\nWell, done.", "Yes, one:\nThe river.\nWell, done."):
        [found] = score_responses([quiet], [response])
        assert (found.strict, found.loose) == ([False], [True])
    [found] = score_responses([one("startend:end_checker")], ["Yes. **Is there more?**"])
    assert (found.strict, found.loose) == ([False], [True])


def test_results_repeat_and_leave_random_numbers_and_logging_alone(caplog):
    # Languages are guessed at random, and the second cannot be detected, which the checker logs.
    request = one("language:response_language", {"language": "fi"})
    texts = ["on se ja the", "123 456"] * 20
    random.seed(5)
    state = random.getstate()
    first = score_responses([request] * 40, texts)
    assert random.getstate() == state and not caplog.records
    random.seed(6)
    assert score_responses([request] * 40, texts) == first
    assert len({found.strict[0] for found in first[::2]}) == 1


def test_nothing_is_fetched(tmp_path):
    """In a new process whose sockets fail, all checkers are imported and sentences and words are counted."""
    names = [name for name in INSTRUCTIONS if name != "combination:repeat_prompt"]
    path = write(tmp_path / "prompts.jsonl", [row(number, name) for number, name in enumerate(names)])
    code = (
        "import socket, sys, logging\n"
        "def refuse(*_, **__): raise SystemExit('a socket was asked for')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from sgpo.evaluate.ifeval import read_requests, score_responses\n"
        "requests = read_requests(sys.argv[1])\n"
        "found = score_responses(requests, ['Dr. Smith came e.g. at 5 p.m. ON FOOT. He LEFT.'] * len(requests))\n"
        "print({r.instructions[0]: f.strict[0] for r, f in zip(requests, found)})\n"
        "print([f.errors for f in found if f.errors], logging.root.handlers)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, others = done.stdout.splitlines()
    assert "'length_constraints:number_sentences': True" in found
    assert "'change_case:capital_word_frequency': True" in found
    assert (others, done.stderr) == ("[] []", "")


def test_arguments_that_are_null_are_none_as_the_hub_has_them(tmp_path):
    names = ["punctuation:no_comma", "length_constraints:number_words"]
    [plain] = read_requests(write(tmp_path / "plain.jsonl", [row(1, *names)]))
    filled = {"keyword": None, "num_words": None, "relation": None}
    hub = row(1, *names, kwargs=[filled, filled | INSTRUCTIONS[names[1]]])
    assert read_requests(write(tmp_path / "hub.jsonl", [hub])) == [plain]
    assert read_requests(write(tmp_path / "null.jsonl", [row(1, *names, kwargs=[None, plain.kwargs[1]])])) == [plain]


def test_files_that_are_not_ifevals_are_refused(tmp_path):
    words, letters = "length_constraints:number_words", "keywords:letter_frequency"
    least = INSTRUCTIONS[words]

    def change(name, kwargs, **more):
        return [
            row(0, "punctuation:no_comma"),
            row(7, words, **more) | {"instruction_id_list": [name], "kwargs": kwargs},
        ]

    nth = INSTRUCTIONS["length_constraints:nth_paragraph_first_word"]
    cases = [
        (
            change("length_constraints:number_word", [least]),
            "line 2: the instruction .* unknown; allowed: .*number_words",
        ),
        (change("quite:another", [{}]), "the instruction 'quite:another' is unknown; allowed: IFEval's and IFBench's"),
        (change(words, [{}]), f"line 2: the kwargs of {words} are none; allowed: num_words, relation"),
        (change(words, [{"num_words": 3}]), "are num_words; allowed: num_words, relation"),
        (change(words, [{"num_words": 3, "relation": None}]), "are num_words; allowed: num_words, relation"),
        (change(words, [{**least, "n": 1}]), "are num_words, relation, n; allowed: num_words, relation"),
        (change("punctuation:no_comma", [least]), "are num_words, relation; allowed: none"),
        (change(words, [{**least, "num_words": -3}]), "'num_words': -3.*random value"),
        (change(words, [{**least, "num_words": "many"}]), "its checker fails: '<' not supported"),
        (change(words, [{**least, "relation": "around"}]), "its checker fails: The supported relation"),
        (change("length_constraints:nth_paragraph_first_word", [nth | {"nth_paragraph": 3}]), "random value"),
        (change(letters, [INSTRUCTIONS[letters] | {"letter": "qu"}]), "random value"),
        (change("keywords:existence", [{"keywords": "river"}]), "'keywords': 'river'}; allowed: a list of texts"),
        (change("keywords:forbidden_words", [{"forbidden_words": []}]), "random value"),
        (change("keywords:existence", [{"keywords": ["("]}]), "its checker fails: missing"),
        (change("ratio:stop_words", [NEED_DATA["ratio:stop_words"]]), "needs data of NLTK .*nltk.downloader stopwords"),
        (change(words, [least, {}]), "line 2: 'kwargs' is .*; allowed: a list of objects, .* 1"),
        (change(words, []), "'kwargs' is \\[\\]; allowed: a list of objects, .* 1"),
        (change(words, least), "line 2: 'kwargs' is .*; allowed: a list of objects"),
        (change(words, [least["num_words"]]), "'kwargs' is \\[5\\]; allowed: a list of objects"),
        ([row(1, words, instruction_id_list=words)], "'instruction_id_list' is 'length.*allowed: a list of ids"),
        ([row(1)], "'instruction_id_list' is \\[\\]; allowed: a list of ids, at least one"),
        ([row(1, words, instruction_id_list=[3])], "'instruction_id_list' is \\[3\\]"),
        ([row(1, words), row(1, words, prompt="Another.")], "line 2: the key 1 is that of .* line 1"),
        ([row(1, words), row(2, words, prompt="Request 1.")], "line 2: the prompt 'Request 1.' is that of .* line 1"),
        ([row(None, words)], "line 1: 'key' is None"),
        ([row(True, words)], "line 1: 'key' is True"),
        ([row(1, words, prompt=["Write."])], "line 1: 'prompt' is \\['Write.'\\]; allowed: a string"),
        ([{"prompt": "Write."}], "has no column 'key'; allowed: IFEval's, key, prompt, instruction_id_list, kwargs"),
    ]
    path = tmp_path / "prompts.jsonl"
    assert not unrefused(lambda rows: read_requests(write(path, rows)), cases)


def test_without_the_extra_the_message_names_it(tmp_path, monkeypatch):
    path = write(tmp_path / "prompts.jsonl", [row(1, "punctuation:no_comma")])
    for module in ("punkt", "nltk", "if_verifiable.ifbench"):
        _checkers.cache_clear()
        with monkeypatch.context() as context, pytest.raises(InputError, match=r"pip install 'sgpo\[ifeval\]'"):
            context.setitem(sys.modules, module, None)
            read_requests(path)
    _checkers.cache_clear()


def test_the_reward_is_the_share_of_instructions_that_hold(tmp_path):
    write(tmp_path / "prompts.jsonl", [row(1, "punctuation:no_comma", "startend:quotation"), row(2, "format:newline")])
    (tmp_path / "reward.py").write_text(
        "from pathlib import Path\n"
        "from sgpo.evaluate.ifeval import checker\n"
        "follows = checker(Path(__file__).with_name('prompts.jsonl'))\n"
    )
    annotator = FunctionAnnotator(f"{tmp_path / 'reward.py'}:follows")
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Request 1."}]
    ranking = annotator([conversation, [{"role": "user", "content": "Request 2."}]], [['"a b"', "a b", "a, b"], ["a"]])
    assert ranking.rewards.tolist() == [1.0, 0.5, 0.0, 1.0]
    with pytest.raises(InputError, match=r"prompts.jsonl lacks the prompt 'Request 3.'; allowed: its 2 prompts"):
        annotator([[{"role": "user", "content": "Request 3."}]], [["a"]])
    with pytest.raises(InputError, match="does not exist"):
        checker(tmp_path / "none.jsonl")


def test_ifeval_itself_is_read_whole():
    folder = os.environ.get("SGPO_REAL_IFEVAL")
    if not folder:
        pytest.skip("SGPO_REAL_IFEVAL names no folder with IFEval's input_data.jsonl")
    requests = read_requests(Path(folder) / "input_data.jsonl")
    for request, found in zip(requests, score_responses(requests, [one.prompt for one in requests]), strict=True):
        sample = IFEvalSample(*request)
        results, _ = evaluate_output_for_sample("ifeval", sample, request.prompt)
        # A letter is drawn for the # of this one.
        assert found.strict == [result.strict_pass for result in results] or request.key == 1122
        assert not found.errors
