"""The pace at a server that limits requests, on a clock of the test's own."""

import itertools

import pytest

from faulty_server import Reply, completion, faulty
from sgpo.serving.client import ServerPool
from sgpo.serving.turns import Pace

RATE, PAUSE = 4, 1.0


def fixed_window():
    """Takes RATE requests in each second of the clock."""
    taken = {}

    def takes(now):
        taken[int(now)] = taken.get(int(now), 0) + 1
        return taken[int(now)] <= RATE

    return takes


def sliding_window():
    """Takes RATE requests in any second."""
    taken = []

    def takes(now):
        room = sum(then > now - 1 for then in taken) < RATE
        taken.extend([now] * room)
        return room

    return takes


def bucket(size):
    """Takes RATE requests a second, and `size` at once."""
    state = {"tokens": float(size), "at": 0.0}

    def takes(now):
        state["tokens"] = min(size, state["tokens"] + RATE * (now - state["at"]))
        state["at"] = now
        room = state["tokens"] >= 1
        state["tokens"] -= room
        return room

    return takes


def play(takes, latency, seconds, concurrency=32):
    """The requests that are answered in time, and those that are refused, of a client that always has another."""
    pace, now, paused = Pace(), 0.0, 0.0
    open_until, refused = [], 0
    while now < seconds:
        for _ in [end for end in open_until if end <= now]:
            pace.succeed()
        open_until = [end for end in open_until if end > now]
        if now >= max(paused, pace.next) and len(open_until) < concurrency:
            pace.send(now)
            if takes(now):
                open_until.append(now + latency)
                yield now
            else:
                refused += 1
                pace.refuse(now, now)
                paused = now + PAUSE
            # What one client needs between two requests.
            now += 1e-3
        else:
            now = min([end for end in [*open_until, max(paused, pace.next)] if end > now], default=now + 1e-3)


@pytest.mark.parametrize("latency", [0.01, 0.5, 3.0])
@pytest.mark.parametrize(
    "takes", [fixed_window, sliding_window, lambda: bucket(4), lambda: bucket(1), lambda: bucket(40)]
)
def test_a_limited_server_is_kept_at_four_fifths_of_its_rate_and_more(takes, latency):
    answered = list(play(takes(), latency, 200.0))
    # While the rate is being found, and once it is.
    assert len(answered) >= 0.8 * RATE * 200.0
    late = [now for now in answered if now >= 50]
    assert len(late) >= 0.85 * RATE * 150.0


def test_a_server_without_limits_is_not_held_back():
    pace = Pace()
    for now in itertools.chain(range(5), range(5)):
        pace.send(now)
        pace.succeed()
        assert pace.next <= 4


def test_an_outage_between_two_refusals_says_nothing_about_the_pace():
    def pace_after(outage, away):
        pace = Pace()
        pace.send(0.0)
        pace.refuse(0.0, 0.0)
        for _ in range(4):
            pace.succeed()
        if away:
            pace.forget()
        pace.send(outage)
        pace.refuse(outage, outage)
        pace.send(outage)
        return pace.next - outage

    assert pace_after(600.0, away=False) == pytest.approx(150.0)
    assert pace_after(600.0, away=True) == 0.0


def test_a_healthy_server_that_refuses_the_rest_answers_everything():
    """Four requests in each tenth of a second; the others get 429, with and without a time to wait."""
    for headers in ({"retry-after": "0.1"}, {"retry-after-ms": "100"}, {}):
        takes, times = fixed_window(), []

        def answer(number, body, takes=takes, times=times, headers=headers):
            times.append(number)
            if takes(server.times[number] * 10):
                return completion(body["messages"][0]["content"])
            return Reply(b"rate limit", status=429, headers=headers)

        bodies = [{"model": "m", "messages": [{"role": "user", "content": str(place)}]} for place in range(120)]
        with faulty(answer) as server:
            answers = ServerPool([server.url], pause=0.1, retries=1).map(bodies)
        assert [one.texts for one in answers] == [(str(place),) for place in range(120)]
        assert len(server.asked) < 2 * 120
