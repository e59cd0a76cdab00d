"""How much of a rate-limited server's rate a pool gets: 120 requests to servers that take four a second.

    python benchmarks/rate_limit.py

Each server answers at once, or after `latency` seconds, what its limit allows, and 429 otherwise. The ideal time is
that of 120 requests at the limit; a ratio of 1 would need to know the limit beforehand.
"""

import argparse
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from faulty_server import Reply, completion, faulty
from sgpo.serving.client import ServerPool


def fixed(rate: int) -> Callable[[float], bool]:
    """At most `rate` requests in each second of the clock."""
    counts: dict[int, int] = {}

    def takes(now: float) -> bool:
        counts[int(now)] = counts.get(int(now), 0) + 1
        return counts[int(now)] <= rate

    return takes


def sliding(rate: int) -> Callable[[float], bool]:
    """At most `rate` requests in any second."""
    taken: deque[float] = deque()

    def takes(now: float) -> bool:
        while taken and taken[0] <= now - 1:
            taken.popleft()
        if len(taken) < rate:
            taken.append(now)
            return True
        return False

    return takes


def bucket(rate: int) -> Callable[[float], bool]:
    """A token bucket of size `rate`."""
    state = {"tokens": float(rate), "at": time.monotonic()}

    def takes(now: float) -> bool:
        state["tokens"] = min(rate, state["tokens"] + rate * (now - state["at"]))
        state["at"] = now
        if state["tokens"] >= 1:
            state["tokens"] -= 1
            return True
        return False

    return takes


def measure(takes: Callable[[float], bool], latency: float, retry_after: str | None, count: int) -> tuple[float, int]:
    """Seconds until all requests are answered, and how many were sent."""
    lock = threading.Lock()

    def answer(number: int, body: dict) -> Reply:
        with lock:
            taken = takes(time.monotonic())
        if taken:
            time.sleep(latency)
            return completion("fine")
        headers = {} if retry_after is None else {"retry-after": retry_after}
        return Reply(b"rate limit", status=429, headers=headers)

    bodies = [{"model": "m", "messages": [{"role": "user", "content": str(place)}]} for place in range(count)]
    with faulty(answer) as server:
        pool = ServerPool([server.url])
        pool.check()  # imports the client
        begin = time.monotonic()
        answers = pool.map(bodies)
        seconds = time.monotonic() - begin
    assert not any(one.failure for one in answers)
    return seconds, len(server.asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=120, help="requests")
    parser.add_argument("--rate", type=int, default=4, help="requests a second that a server takes")
    arguments = parser.parse_args()
    print("| server | latency, s | Retry-After | seconds | requests | share of the rate |\n|---|---|---|---|---|---|")
    for kind in (fixed, sliding, bucket):
        for latency, retry_after in ((0.0, "1"), (0.0, None), (0.5, "1")):
            seconds, asked = measure(kind(arguments.rate), latency, retry_after, arguments.count)
            share = arguments.count / arguments.rate / seconds
            print(
                f"| {kind.__name__} | {latency} | {retry_after} | {seconds:.1f} | {asked} | {share:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
