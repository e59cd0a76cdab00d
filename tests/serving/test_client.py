"""How a pool handles servers that fail; the tests count the requests that a server received."""

import itertools
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from faulty_server import Reply, completion, faulty
from live_server import free_port
from refusals import unrefused
from sgpo.errors import InputError
from sgpo.serving.client import ServerPool


def bodies(count):
    return [{"model": "m", "messages": [{"role": "user", "content": str(place)}]} for place in range(count)]


def pool(*servers, **options):
    """A pool that does not wait long."""
    urls = [server if isinstance(server, str) else server.url for server in servers]
    return ServerPool(urls, **{"pause": 0.01, "retries": 3, "timeout": 5.0, **options})


def echo(number, body):
    """A reply that repeats its request."""
    return completion(body["messages"][0]["content"])


def failing(first, reply, then=echo):
    """Answers the first requests with `reply`, the others with `then`."""
    return lambda number, body: reply if number < first else then(number, body)


def nobody():
    """The base URL of a port that nothing listens on."""
    return f"http://127.0.0.1:{free_port()}/v1"


def test_answers_come_in_the_order_of_the_bodies_whatever_the_order_of_the_replies():
    def slower_first(number, body):
        return Reply(echo(number, body).body, delay=0.3 if body["messages"][0]["content"] == "0" else 0.0)

    done, seen = [], {}
    with faulty(slower_first) as server:
        answers = pool(server).map(bodies(5), progress=done.append, on_answer=seen.__setitem__)
    assert [answer.texts for answer in answers] == [(str(place),) for place in range(5)]
    assert list(seen)[-1] == 0 and [seen[place] for place in range(5)] == answers
    assert done == [1] * 5
    assert len(server.asked) == 5


def test_no_bodies_no_requests():
    assert pool(nobody()).map([]) == []


def test_a_check_reaches_a_server_without_asking_for_an_answer():
    """Whatever the server replies, here that it has no such page."""
    with faulty(echo) as server:
        pool(nobody(), server).check()
        assert server.asked == []


def test_a_check_waits_as_long_as_a_request_and_then_names_the_servers():
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"

    def answer_once():
        with HTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler) as server:
            server.handle_request()

    starts = threading.Timer(0.3, answer_once)
    starts.start()
    pool(url, pause=0.1, retries=5).check()
    starts.join()
    with pytest.raises(InputError, match=rf"no server answers \({url}: no connection"):
        pool(url).check()


def test_a_body_arrives_unchanged_and_the_whole_reply_is_read():
    body = {**bodies(1)[0], "seed": 7, "stop": ["x"], "top_k": -1, "generation_config": "{}", "n": 2}
    top = [{"token": "A", "logprob": -0.5}, {"token": "B", "logprob": -1.0}]
    logprobs = {"content": [{"token": "A", "logprob": -0.5, "top_logprobs": top}]}
    choices = [
        {"message": {"content": "A"}, "finish_reason": "stop", "logprobs": logprobs},
        {"message": {"content": ""}, "finish_reason": "length"},
    ]
    reply = completion(choices=choices, usage={"prompt_tokens": 5, "completion_tokens": 3})
    with faulty(lambda number, body: reply) as server:
        (answer,) = pool(server).map([body])
    assert server.asked == [body]
    assert answer.texts == ("A", "") and answer.finish_reasons == ("stop", "length")
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 3)
    assert answer.top_logprobs == {"A": -0.5, "B": -1.0}


def test_an_empty_text_is_an_answer_and_is_not_retried():
    with faulty(lambda number, body: completion("")) as server:
        (answer,) = pool(server).map(bodies(1))
    assert answer.texts == ("",) and answer.prompt_tokens is None
    assert len(server.asked) == 1


def test_a_reasoning_model_that_is_cut_before_its_answer_has_an_empty_text():
    with faulty(lambda number, body: completion(None, reason="length")) as server:
        (answer,) = pool(server).map(bodies(1))
    assert (answer.texts, answer.finish_reasons) == (("",), ("length",))
    assert len(server.asked) == 1


FAULTS = {
    "status 500": Reply(b"out of memory", status=500),
    "status 503": Reply(b"", status=503),
    "status 408": Reply(b"", status=408),
    "no connection": Reply(None),
    "no reply in time": Reply(b"", delay=0.6),
    "a reply that is not JSON": Reply(b'{"choices": [', headers={"content-type": "application/json"}),
    "a reply without choices": Reply(b'{"choices": []}'),
    "a choice without finish_reason": completion(reason=None),
    "a choice that the server aborted": completion("half of an ans", reason="abort"),
    "completion_tokens that is not a count": completion(usage={"completion_tokens": "3"}),
    "logprobs of another form": completion(
        choices=[{"message": {"content": ""}, "finish_reason": "stop", "logprobs": {"content": [3]}}]
    ),
}


def test_a_fault_is_retried():
    for failure, reply in FAULTS.items():
        with faulty(failing(2, reply)) as server:
            (answer,) = pool(server, timeout=0.3).map(bodies(1))
        assert (answer.texts, len(server.asked)) == (("0",), 3), failure


def test_a_fault_that_stays_is_named_with_its_server_after_all_attempts():
    def always(failure):
        with faulty(lambda number, body: FAULTS[failure]) as server:
            try:
                pool(server, timeout=0.3, retries=1).map(bodies(1))
            finally:
                assert len(server.asked) == 2, failure

    cases = [(failure, rf"http://127\.0\.0\.1:\d+/v1: .*{failure}") for failure in FAULTS]
    assert unrefused(always, cases) == {}


def test_a_server_that_refuses_everything_ends_the_call_in_time():
    """Also one that asks for longer than an answer may take: a quota of a day that is used up."""
    refusal = Reply(b"quota", status=429)
    with (
        faulty(lambda number, body: refusal) as server,
        pytest.raises(InputError, match=r"no server answers .*429: quota"),
    ):
        pool(server, pause=0.002, retries=0).map(bodies(40))
    tomorrow = Reply(b"quota", status=429, headers={"retry-after": "86400"})
    with (
        faulty(lambda number, body: tomorrow) as server,
        pytest.raises(InputError, match=r"asks to wait 86,400 s: status 429"),
    ):
        pool(server).map(bodies(40))


@pytest.mark.parametrize("retries", [0, 3])
def test_a_quota_for_a_window_is_waited_for_without_being_told(retries):
    """Ten requests in each window that is a hundred times as long as the first pause."""
    windows = {}

    def answer(number, body):
        window = int(time.monotonic())
        windows[window] = windows.get(window, 0) + 1
        return echo(number, body) if windows[window] <= 10 else Reply(b"quota", status=429)

    with faulty(answer) as server:
        answers = pool(server, pause=0.01, retries=retries).map(bodies(25))
    assert [one.failure for one in answers] == [None] * 25


@pytest.mark.parametrize(("count", "options"), [(20, {}), (3, {}), (50, {"max_failed": 0.02})])
def test_one_request_that_always_fails_ends_no_call_even_at_one_request_at_a_time(count, options):
    for poisoned in (0, 2, count - 1):

        def answer(number, body, poisoned=poisoned):
            return Reply(b"boom", status=500) if body["messages"][0]["content"] == str(poisoned) else echo(number, body)

        with faulty(answer) as server:
            answers = pool(server, concurrency=1, retries=1, **options).map(bodies(count))
        assert [place for place, one in enumerate(answers) if one.failure == "no_answer"] == [poisoned]


def rejection(status, message, **further):
    return Reply(json.dumps({"error": {"message": message, **further}}).encode(), status=status)


# What servers say to one request among many, by the reason that it is counted under.
FAILURES = {
    "filtered": [
        rejection(400, "The response was filtered due to the prompt triggering our policy", code="content_filter"),
        rejection(403, "Your chosen model requires moderation and your input was flagged"),
        rejection(400, "Input data may contain inappropriate content.", code="data_inspection_failed"),
        completion(None, reason="content_filter"),
        completion("Half of a scene", reason="content_filter"),
        Reply(json.dumps({"choices": [{"message": {"refusal": "I can't."}, "finish_reason": "stop"}]}).encode()),
    ],
    "too_long": [
        rejection(400, "This model's maximum context length is 4096 tokens", code="context_length_exceeded"),
        rejection(400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
        rejection(422, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"),
        rejection(400, "prompt is too long: 208310 tokens > 200000 maximum"),
        rejection(400, "the request exceeds the available context size"),
        rejection(413, "Payload"),
    ],
    "refused": [rejection(400, "Role order"), rejection(422, "n")],
    "no_text": [completion(None), completion(["a part"])],
    "not_unicode": [completion("\ud83d")],
    "no_answer": [rejection(500, "boom"), completion("half", reason="abort"), Reply(b"[]", delay=0.05)],
}


def among(reply):
    """A server that gives `reply` to request 3, and answers the others."""
    return lambda number, body: reply if body["messages"][0]["content"] == "3" else echo(number, body)


def test_a_request_that_fails_is_named_with_its_reason_and_ends_nothing():
    for failure, replies in FAILURES.items():
        for reply in replies:
            with faulty(among(reply)) as server:
                answers = pool(server, retries=1).map(bodies(12))
            assert [answer.failure for answer in answers] == [None] * 3 + [failure] + [None] * 8, (failure, reply)
            assert answers[3].detail and answers[2].texts == ("2",)
            # Asked again only where that may help.
            assert len(server.asked) == 12 + (failure == "no_answer"), (failure, reply)


def test_too_large_a_share_of_failures_ends_the_call():
    def some(share):
        return lambda number, body: echo(number, body) if number % 10 >= 10 * share else rejection(400, "no such field")

    with faulty(some(0.2)) as server:
        assert sum(answer.failure == "refused" for answer in pool(server, concurrency=1).map(bodies(100))) == 20
        assert len(pool(server, concurrency=1, max_failed=1).map(bodies(3))) == 3
    message = r"21 of 100 requests failed \(refused 21; such as .*no such field.*\); allowed: a share of max_failed"
    with faulty(some(0.3)) as server, pytest.raises(InputError, match=message):
        pool(server, concurrency=4).map(bodies(100))
    assert len(server.asked) < 100
    with faulty(some(0.1)) as server, pytest.raises(InputError, match="1 of 100 requests failed"):
        pool(server, max_failed=0).map(bodies(100))
    with faulty(some(1)) as server, pytest.raises(InputError, match="1 of 1 requests failed"):
        pool(server).map(bodies(1))


def test_the_share_of_failures_is_that_of_all_calls_of_a_pool():
    with faulty(lambda number, body: rejection(400, "n") if number >= 20 else echo(number, body)) as server:
        own = pool(server, concurrency=1)
        own.map(bodies(20))
        assert own.map(bodies(1))[0].failure == "refused"
        with pytest.raises(InputError, match="6 of 26 requests failed"):
            [own.map(bodies(1)) for _ in range(10)]


@pytest.mark.parametrize(("status", "message"), [(401, "bad key"), (402, "pay"), (403, "region"), (404, "no model")])
def test_what_is_wrong_with_every_request_is_quoted_and_not_retried(status, message):
    refusal = Reply(message.encode(), status=status)
    expected = rf"request 0: http://127.0.0.1:\d+/v1 refuses it: status {status}: {message}"
    with (
        faulty(lambda number, body: refusal) as server,
        faulty(lambda number, body: refusal) as other,
        pytest.raises(InputError, match=expected),
    ):
        pool(server, other).map(bodies(1))
    assert len(server.asked) + len(other.asked) == 1


def test_a_missing_page_may_be_due_to_an_incomplete_base_url():
    with faulty(lambda number, body: Reply(b"Not Found", status=404)) as server:
        with pytest.raises(InputError, match=r"404: Not Found \(base URLs usually end in /v1\)"):
            pool(server.url.removesuffix("/v1")).map(bodies(1))
        with pytest.raises(InputError, match=r"404: Not Found\.$"):
            pool(server).map(bodies(1))


def test_a_server_is_paused_for_as_long_as_it_asks():
    busy = Reply(b"", status=429, headers={"retry-after": "1"})
    with faulty(failing(1, busy)) as server:
        pool(server).map(bodies(1))
    assert 1.0 <= server.times[1] - server.times[0] < 2.0


def test_pauses_grow():
    with faulty(failing(4, FAULTS["status 500"])) as server:
        pool(server, pause=0.1, retries=4).map(bodies(1))
    pauses = [later - earlier for earlier, later in itertools.pairwise(server.times)]
    # Doubling, within a quarter to either side, plus what a request takes.
    for pause, expected in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert 0.75 * expected <= pause < 1.25 * expected + 0.1


def test_requests_of_a_server_that_is_down_go_to_the_other():
    with faulty(echo) as server:
        answers = pool(nobody(), server, concurrency=4).map(bodies(20))
    assert [answer.texts[0] for answer in answers] == [str(place) for place in range(20)]
    assert len(server.asked) == 20


def test_a_server_that_times_out_costs_few_requests():
    with faulty(lambda number, body: Reply(b"", delay=0.8)) as hanging, faulty(echo) as server:
        answers = pool(hanging, server, concurrency=2, timeout=0.6, pause=0.2).map(bodies(100))
    assert len(answers) == 100 and len(server.asked) >= 100
    assert 2 <= len(hanging.asked) <= 5


def test_a_server_that_is_gone_does_not_use_up_the_attempts_while_the_other_is_busy():
    """A server that is gone fails at once and always has room; the request waits for the busy one."""
    slow = lambda number, body: Reply(echo(number, body).body, delay=0.3)  # noqa: E731
    with faulty(slow) as server:
        answers = pool(nobody(), server, concurrency=1, retries=0).map(bodies(4))
    assert [answer.texts[0] for answer in answers] == ["0", "1", "2", "3"]


def test_a_server_that_comes_back_is_asked_again():
    slow = lambda number, body: Reply(echo(number, body).body, delay=0.01)  # noqa: E731
    with faulty(failing(3, FAULTS["status 503"], slow)) as server, faulty(slow) as other:
        pool(server, other, concurrency=1).map(bodies(60))
    assert len(server.asked) - 3 > 10
    assert len(server.asked) - 3 + len(other.asked) == 60


def test_with_no_server_up_one_error_names_all_and_the_last_cause():
    first, second = nobody(), nobody()
    with pytest.raises(InputError) as raised:
        pool(first, second).map(bodies(10))
    assert str(raised.value).startswith("no server answers (")
    assert f"{first}: no connection" in str(raised.value) and f"{second}: no connection" in str(raised.value)


def test_many_requests_that_fail_together_do_not_use_up_the_retries():
    """A server that restarts loses all open requests; that is one failure."""
    with faulty(failing(16, Reply(b"", status=500, delay=0.2))) as server:
        answers = pool(server, concurrency=16, retries=2).map(bodies(40))
    assert len(answers) == 40
    assert len(server.asked) == 56


def test_requests_that_fail_everywhere_do_not_end_the_call_while_others_are_answered():
    """Retried requests come last, so at the end the server gives no other answer."""

    def answer(number, body):
        poisoned = int(body["messages"][0]["content"]) % 20 == 0
        return Reply(b"boom", status=500, delay=0.02) if poisoned else echo(number, body)

    with faulty(answer) as server:
        answers = pool(server, concurrency=8, retries=2).map(bodies(200))
    assert [place for place, one in enumerate(answers) if one.failure == "no_answer"] == list(range(0, 200, 20))
    assert "no answer in 3 attempts" in answers[0].detail and "500: boom" in answers[0].detail
    assert len(server.asked) == 190 + 3 * 10


def test_a_server_that_goes_away_is_no_failure_of_the_last_requests():
    with (
        faulty(lambda number, body: echo(number, body) if number < 38 else Reply(None)) as server,
        pytest.raises(InputError, match="no server answers"),
    ):
        pool(server, concurrency=1, retries=1).map(bodies(40))


def test_answers_are_passed_on_before_other_requests_fail():
    seen = {}
    fault = FAULTS["status 500"]
    with (
        faulty(lambda number, body: echo(number, body) if number < 7 else fault) as server,
        pytest.raises(InputError, match="status 500"),
    ):
        pool(server, concurrency=2).map(bodies(20), on_answer=seen.__setitem__)
    answered = {place: answer for place, answer in seen.items() if answer.failure is None}
    assert len(answered) == 7
    assert all(answer.texts == (str(place),) for place, answer in answered.items())


def test_an_error_of_the_caller_ends_the_call():
    def stop(place, answer):
        raise ZeroDivisionError

    with faulty(echo) as server, pytest.raises(ZeroDivisionError):
        pool(server, concurrency=1).map(bodies(20), on_answer=stop)
    assert len(server.asked) == 1


def test_open_requests_at_a_server_are_bounded():
    slow = lambda number, body: Reply(echo(number, body).body, delay=0.02)  # noqa: E731
    with faulty(slow) as first, faulty(slow) as second:
        pool(first, second, concurrency=3).map(bodies(60))
    assert max(first.opens) == max(second.opens) == 3
    with faulty(slow) as server:
        pool(server, concurrency=3).map(bodies(10), concurrency=1)
    assert max(server.opens) == 1


def test_the_least_busy_server_is_asked_first():
    slow = lambda number, body: Reply(echo(number, body).body, delay=0.5)  # noqa: E731
    with faulty(slow) as first, faulty(slow) as second:
        pool(first, second, concurrency=10).map(bodies(10))
    assert len(first.asked) == len(second.asked) == 5


def test_a_server_that_has_recovered_is_asked_as_much_as_before():
    slow = lambda number, body: Reply(echo(number, body).body, delay=0.02)  # noqa: E731
    with faulty(failing(3, FAULTS["status 500"], slow)) as server:
        pool(server, concurrency=3).map(bodies(30))
    # One request tries the server; after it succeeds the limit applies again.
    assert server.opens[3] == 1 and max(server.opens[4:]) == 3


def test_the_key_is_sent_to_the_server_and_appears_in_no_message(monkeypatch):
    def repeat(number, body):
        return Reply(b"your key sk-secret is wrong", status=401)

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with faulty(repeat) as server, pytest.raises(InputError) as raised:
        pool(server).map(bodies(1))
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    assert "secret" not in str(raised.value) and "your key *** is wrong" in str(raised.value)


def test_a_machine_that_is_gone_does_not_cost_the_time_of_a_long_answer(monkeypatch):
    monkeypatch.setattr("sgpo.serving.server._CONNECT_TIMEOUT", 0.2)
    began = time.monotonic()
    # An unused address of RFC 5737: packets to it are lost, or refused on the way.
    with pytest.raises(InputError, match="no server answers"):
        pool("http://192.0.2.1:9/v1", timeout=600.0, retries=0).map(bodies(1))
    assert time.monotonic() - began < 5


def test_arguments_out_of_range_are_named():
    cases = [
        ({"urls": []}, "servers is empty"),
        ({"urls": ["localhost:8000"]}, "'localhost:8000'; allowed: a base URL"),
        ({"urls": ["http:///v1"]}, "'http:///v1'; allowed: a base URL"),
        ({"urls": ["http://a:http/v1"]}, "'http://a:http/v1'; allowed: a base URL"),
        ({"retries": -1}, "retries is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"concurrency": 1.5}, "concurrency is 1.5; allowed: a whole number >= 1"),
        ({"timeout": 0}, "timeout is 0"),
        ({"pause": float("nan")}, "pause is nan"),
    ]
    assert unrefused(lambda case: ServerPool(**{"urls": ["http://a/v1"], **case}), cases) == {}


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"pip install 'sgpo\[server\]'"):
        ServerPool(["http://a/v1"])
