"""Which server of a pool gets the next request, how fast it may be asked, and how long one that fails is paused."""

import asyncio
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from random import SystemRandom
from typing import NamedTuple

from sgpo.errors import InputError
from sgpo.serving.server import Server

_LONGEST_PAUSE = 60.0
# First pauses without any answer after which a server that gives nothing but 429 is taken to be one that fails.
_PATIENCE = 300
# Share by which an answer raises the rate: after each refusal a quarter of it, so that the rate is found quickly and
# then kept.
_RAISE, _LEAST_RAISE, _LOWER = 0.07, 0.001, 0.95


class Turn(NamedTuple):
    """One request at one server, and its start time on the monotonic clock."""

    server: Server
    began: float


class Turns:
    """Assigns requests to servers, the least busy first. One that fails is paused, twice as long each time up to a
    minute, then tried by one request at a time; one that refuses (429) is asked at its own pace. Pauses are in
    seconds."""

    def __init__(self, servers: Sequence[Server], *, limit: int, pause: float, longest: float) -> None:
        self.servers = servers
        self._states = {server: _State() for server in servers}
        self._limit, self._pause, self._longest = limit, pause, longest
        self._changed = asyncio.Event()

    async def take(self, avoid: Collection[Server]) -> Turn:
        """Waits for a server with room, and takes a turn there; `release` returns it. Servers to avoid are used only if
        there are no others: one that is gone always has room."""
        wanted = {server: self._states[server] for server in self.servers if server not in avoid} or self._states
        while True:
            if free := [server for server, state in wanted.items() if state.has_room(self._limit)]:
                server = min(free, key=lambda one: wanted[one].open)
                turn = Turn(server, time.monotonic())
                wanted[server].open += 1
                wanted[server].pace.send(turn.began)
                return turn
            self._changed.clear()
            waits = [wait for state in wanted.values() if (wait := state.paused_for()) > 0]
            try:
                await asyncio.wait_for(self._changed.wait(), min(waits, default=None))
            except TimeoutError:
                continue

    def release(self, turn: Turn) -> None:
        """Returns a turn."""
        self._states[turn.server].open -= 1
        self._changed.set()

    def succeed(self, turn: Turn) -> None:
        """Records that the server has answered."""
        state = self._states[turn.server]
        state.failures = state.refusals = 0
        state.failing.clear()
        state.answered_at = time.monotonic()
        state.pace.succeed()

    def fail(self, turn: Turn, place: int, failure: str, retry_after: float | None) -> None:
        """Records that the request at `place` failed, and pauses the server, for as long as it asks if it does.
        Requests that were open together and fail together count as one failure."""
        state = self._states[turn.server]
        if turn.began >= state.failed_at:
            state.failures += 1
            state.failed_at = time.monotonic()
        state.failing.add(place)
        # What it answers before and after an outage says nothing about its pace.
        state.pace.forget()
        self._rest(state, state.failures, failure, retry_after)

    def refuse(self, turn: Turn, failure: str, retry_after: float | None) -> None:
        """Records a 429 and pauses the server; raises InputError if it asks to wait longer than any answer may take."""
        state = self._states[turn.server]
        state.refusals += state.pace.refuse(turn.began, time.monotonic())
        if retry_after is not None and retry_after > self._longest:
            raise InputError(f"{turn.server.url} asks to wait {retry_after:,.0f} s: {failure}.")
        state.asked_to_wait = retry_after or 0.0
        self._rest(state, state.refusals, failure, retry_after)

    def _rest(self, state: "_State", in_a_row: int, failure: str, retry_after: float | None) -> None:
        state.failure = failure
        if retry_after is None:
            # Jitter, so that clients do not all come back at once.
            pause = self._pause * 2 ** min(max(in_a_row - 1, 0), 10) * SystemRandom().uniform(0.75, 1.25)
            pause = min(pause, _LONGEST_PAUSE)
        else:
            pause = min(retry_after, self._longest)
        state.paused_until = max(state.paused_until, time.monotonic() + pause)

    def all_down(self, failures: int, requests: int = 1) -> bool:
        """Whether every server has failed at least that often in a row, with at least so many different requests."""
        return all(one.failures >= failures and len(one.failing) >= requests for one in self._states.values())

    def all_silent(self) -> bool:
        """Whether no server has answered anything for so long that rate limits do not explain it."""
        now, patience = time.monotonic(), _PATIENCE * self._pause
        return all(now - one.answered_at > patience + 2 * one.asked_to_wait for one in self._states.values())

    def last_failures(self) -> str:
        """The last failure of each server that had one."""
        return "; ".join(f"{server.url}: {state.failure}" for server, state in self._states.items() if state.failure)


class Pace:
    """Requests a second that a server takes, learned from its refusals (429): no limit until the first one, then its
    answers a second between two refusals, then the geometric mean of that, too low, and the rate, too high. It also
    bounds the open requests."""

    def __init__(self) -> None:
        self._rate, self._raise = math.inf, _RAISE
        self._refused_at, self._answered = -math.inf, 0
        self.next = 0.0  # when the next request may be sent

    def send(self, now: float) -> None:
        """Records that a request was sent."""
        self.next = max(now, self.next) + 1 / self._rate

    def succeed(self) -> None:
        """Records an answer."""
        self._answered += 1
        self._rate *= 1 + self._raise

    def forget(self) -> None:
        """Begins to count anew: the server has been away."""
        self._refused_at, self._answered = -math.inf, 0

    def refuse(self, sent: float, now: float) -> bool:
        """Records that a request was refused; returns whether it is the first of those that were open together."""
        if sent < self._refused_at:
            return False
        if self._answered and math.isfinite(self._refused_at):
            rate = self._answered / (now - self._refused_at)
            if math.isfinite(self._rate):
                rate, self._raise = math.sqrt(rate * _LOWER * self._rate), max(self._raise / 4, _LEAST_RAISE)
            self._rate = min(rate, self._rate)
        self._refused_at, self._answered = now, 0
        return True


@dataclass
class _State:
    open: int = 0
    failures: int = 0
    failed_at: float = 0.0
    paused_until: float = 0.0
    failure: str = ""
    failing: set[int] = field(default_factory=set)
    refusals: int = 0
    asked_to_wait: float = 0.0
    answered_at: float = field(default_factory=time.monotonic)
    pace: Pace = field(default_factory=Pace)

    def paused_for(self) -> float:
        return max(self.paused_until, self.pace.next) - time.monotonic()

    def has_room(self, limit: int) -> bool:
        return self.paused_for() <= 0 and self.open < (1 if self.failures or self.refusals > 1 else limit)
