"""A judge's cache: every line is an answer that can be used, or is named."""

import json
from dataclasses import asdict

import pytest

from refusals import unrefused
from sgpo.serving.answers import Answer
from sgpo.serving.cache import CachedPool

BODIES = [{"model": "judge", "messages": [{"role": "user", "content": text}]} for text in ("a", "b", "c")]
ANSWER = Answer(("Verdict: A",), ("stop",), 3, 4, {"A": -0.5, "B": -9999.0})


class Servers:
    """Answers everything, and counts."""

    asked = 0

    def map(self, bodies, *, on_answer, **_):
        for place in range(len(bodies)):
            self.asked += 1
            on_answer(place, ANSWER)


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    CachedPool(Servers(), path).map(BODIES[:2])
    return path


def damaged(**changes):
    answer = {**json.loads(json.dumps(asdict(ANSWER))), **changes}
    return json.dumps({"key": "k", "answer": {name: value for name, value in answer.items() if value != "left out"}})


def test_a_damaged_line_is_named_whatever_the_damage(cache):
    good = cache.read_bytes()

    def read(line):
        cache.write_bytes(good + line.encode("utf-8", "surrogatepass") + b"\n")
        return CachedPool(Servers(), cache).missing(BODIES)

    lines = (
        "", "{", "[1]", "null", "{}", '{"key": "k"}', "\ud83d", "\x00", "[" * 50_000,
        '{"key": "k", "answer": %s}' % ("9" * 5000),
        damaged(texts=[5]), damaged(texts="left out"), damaged(texts=[]), damaged(texts=["a", "b"]),
        damaged(finish_reasons=[None]), damaged(finish_reasons=[]), damaged(prompt_tokens=2.5),
        damaged(prompt_tokens="many"),
        damaged(top_logprobs=[1]), damaged(top_logprobs={"A": None}), damaged(top_logprobs={"A": float("nan")}),
        damaged(top_logprobs={"A": float("inf")}),
    )  # fmt: skip
    message = r"^cache .*verdicts\.jsonl line 3.* Remove the line to ask for its answer again\.$"
    assert unrefused(read, [(line, message) for line in lines]) == {}


def test_a_cache_that_an_editor_on_windows_has_saved_is_used_and_continued(cache):
    """The advice is to remove a damaged line, and an editor may change what it leaves."""
    cache.write_bytes(b"\xef\xbb\xbf" + cache.read_bytes().replace(b"\n", b"\r\n"))
    servers = Servers()
    assert CachedPool(servers, cache).map(BODIES) == [ANSWER] * 3
    assert servers.asked == 1
    assert CachedPool(servers, cache).missing(BODIES) == []


def test_a_folder_in_the_place_of_a_cache_is_named(tmp_path):
    cases = [(tmp_path, f"cache {tmp_path} cannot be read: Is a directory")]
    assert unrefused(lambda path: CachedPool(Servers(), path).missing(BODIES), cases) == {}
