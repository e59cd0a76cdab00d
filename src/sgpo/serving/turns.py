"""Which server of a pool is asked next, and how long one that fails is left alone."""

import asyncio
import os
import time
from collections.abc import Collection, Sequence

from sgpo.serving.server import Server

_LONGEST_PAUSE = 60.0


class Turn:
    """One request at one server.

    Attributes:
        server: the server.
        began: when, on the monotonic clock.
    """

    def __init__(self, server: Server) -> None:
        self.server, self.began = server, time.monotonic()


class Turns:
    """Hands out turns at several servers: the least busy first, and those that fail less and less often.

    A server that fails is set aside for a pause, which doubles with each failure in a row, up to a minute. After it,
    one request at a time tries the server, until one succeeds: what is lost to a server that is gone, or that takes
    long to fail, is one request now and then.

    Args:
        servers: the servers.
        limit: open requests at each of them.
        pause: seconds that the first failure sets a server aside.
        longest: seconds that a server may ask to be left alone.
    """

    def __init__(self, servers: Sequence[Server], *, limit: int, pause: float, longest: float) -> None:
        self.servers = tuple(servers)
        self._states = {server: _State() for server in servers}
        self._limit, self._pause, self._longest = limit, pause, longest
        self._changed = asyncio.Event()

    async def take(self, avoid: Collection[Server] = ()) -> Turn:
        """Waits for a server that has room, and takes a turn there, to be given back with `release`.

        Servers to avoid are taken only when there are no others: one that is gone always has room.
        """
        wanted = [server for server in self.servers if server not in avoid] or self.servers
        while True:
            free = [server for server in wanted if self._states[server].has_room(self._limit)]
            if free:
                server = min(free, key=lambda one: self._states[one].open)
                self._states[server].open += 1
                return Turn(server)
            self._changed.clear()
            waits = [wait for server in wanted if (wait := self._states[server].aside_for()) > 0]
            try:
                await asyncio.wait_for(self._changed.wait(), min(waits, default=None))
            except TimeoutError:
                continue

    def release(self, turn: Turn) -> None:
        """Gives a turn back."""
        self._states[turn.server].open -= 1
        self._changed.set()

    def succeed(self, turn: Turn) -> None:
        """The server has answered: it is there."""
        self._states[turn.server].failures = 0

    def fail(self, turn: Turn, said: str, retry_after: float | None = None) -> None:
        """The server has failed: it is set aside, for as long as it asks where it does.

        Requests that were open together fail together, which counts once.
        """
        state, now = self._states[turn.server], time.monotonic()
        if turn.began >= state.failed_at:
            state.failures += 1
            state.failed_at = now
        state.said = said
        # A little less or more each time, so that clients do not all come back at once.
        spread = 0.75 + 0.5 * int.from_bytes(os.urandom(2), "big") / 65535
        pause = min(self._pause * 2 ** min(state.failures - 1, 10) * spread, _LONGEST_PAUSE)
        if retry_after is not None:
            pause = min(retry_after, self._longest)
        state.aside_until = max(state.aside_until, now + pause)

    def all_down(self, failures: int) -> bool:
        """Whether each server has failed so often in a row."""
        return all(state.failures >= failures for state in self._states.values())

    def last_words(self) -> str:
        """The last failure of each server that had one."""
        return "; ".join(f"{server.url}: {state.said}" for server, state in self._states.items() if state.said)


class _State:
    def __init__(self) -> None:
        self.open, self.failures, self.failed_at, self.aside_until, self.said = 0, 0, 0.0, 0.0, ""

    def aside_for(self) -> float:
        return self.aside_until - time.monotonic()

    def has_room(self, limit: int) -> bool:
        return self.aside_for() <= 0 and self.open < (1 if self.failures else limit)
