"""Chat completions from several servers with the OpenAI API: bounded, retried, and moved when a server fails."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from urllib.parse import urlsplit

from sgpo.choices import Failure
from sgpo.errors import InputError, check_failed, check_whole
from sgpo.serving.answers import Answer, Body, NoAnswer, OnAnswer
from sgpo.serving.server import Refused, Server
from sgpo.serving.turns import Turns
from sgpo.store.progress import Advance

# Requests that must fail in a row before servers that can be reached are taken to be down: one may be at fault itself.
_DIFFERENT = 3
# Says of an answer why it is of no use, or None.
Review = Callable[[Answer], Failure | None]


class ServerPool:
    """Several servers that are used as one.

    A request goes to the server with the fewest open requests. Time-outs, refused connections, the statuses 408, 409
    and 5xx, and replies without an answer are retried; so is 429, which costs no attempt while the server answers
    others. A server that fails is paused, longer each time, and its requests go to the others. A request that a server
    rejects, or that fails at every attempt while others are answered, has a failed answer (`Answer.failure`).

    The key of the servers is read from OPENAI_API_KEY; without one, "none" is sent.

    Args:
        urls: base URLs, such as http://localhost:8000/v1.
        timeout: seconds for one attempt, of which connecting may take ten.
        retries: attempts of a request after the first at each server; also failures in a row, after the first, that all
            servers may have before the call ends.
        concurrency: open requests at each server.
        pause: seconds that a server is paused after its first failure; doubled each time, up to a minute.
        max_failed: share of all requests that may fail, see `check_failed`.

    Raises:
        InputError: an argument is out of range, or the `openai` package is not installed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout: float = 600.0,
        retries: int = 5,
        concurrency: int = 32,
        pause: float = 1.0,
        max_failed: float = 0.2,
    ) -> None:
        if not urls:
            raise InputError("servers is empty; allowed: at least one base URL, such as http://localhost:8000/v1.")
        for url in urls:
            if not _is_base_url(url):
                raise InputError(f"server {url!r}; allowed: a base URL, such as http://localhost:8000/v1.")
        check_whole("retries", retries, 0)
        check_whole("concurrency", concurrency, 1)
        for name, seconds in (("timeout", timeout), ("pause", pause)):
            if not seconds > 0:
                raise InputError(f"{name} is {seconds}; allowed: seconds > 0.")
        if not 0 <= max_failed <= 1:
            raise InputError(f"max_failed is {max_failed}; allowed: a share, 0 to 1.")
        # Imported with the first request; checked here so that a run fails before it starts.
        if find_spec("openai") is None:
            raise InputError("servers need the openai package, which is not installed: pip install 'sgpo[server]'.")
        self._urls = tuple(urls)
        self._api_key = os.environ.get("OPENAI_API_KEY") or "none"
        self._timeout, self._retries, self._concurrency, self._pause = timeout, retries, concurrency, pause
        self._max_failed, self._asked, self._failed = max_failed, 0, Counter()

    def map(
        self,
        bodies: Sequence[Body],
        *,
        progress: Advance | None = None,
        on_answer: OnAnswer | None = None,
        concurrency: int | None = None,
        review: Review | None = None,
        known: Sequence[Answer] = (),
    ) -> list[Answer]:
        """Asks for a completion of each of N request bodies of POST /v1/chat/completions.

        Args:
            bodies: N request bodies.
            progress: called with 1 for each answer.
            on_answer: called with the body's position and its answer as soon as that arrives, in any order; these
                answers are not lost if the call fails later.
            concurrency: open requests at each server; None uses the pool's.
            review: says of an answer why it is of no use, or None; it becomes a failed answer.
            known: answers to other requests of the same job, which count in the share of failures.

        Raises:
            InputError: too large a share of this pool's requests failed, a server rejects all requests (its status and
                message are quoted), or all servers failed too often (the last failure of each server is named).
        """
        self._asked += len(bodies) + len(known)
        for answer in known:
            self._count(answer)
        call = _Call(bodies, progress, on_answer, review)
        asyncio.run(self._map(call, concurrency or self._concurrency))
        return call.answers

    def check(self) -> None:
        """Raises InputError if no server can be reached in as many attempts as a request gets; asks for no answer."""
        call = _Call([None])
        asyncio.run(self._map(call, 1))
        if call.answers[0] is not None:
            raise InputError(f"no server answers ({call.answers[0].detail}).")

    async def _map(self, call: "_Call", concurrency: int) -> None:
        # Connections belong to the event loop of one call.
        servers = [Server(url, self._api_key, self._timeout) for url in self._urls]
        turns = Turns(servers, limit=concurrency, pause=self._pause, longest=self._timeout)
        places = iter(range(len(call.bodies)))

        async def work() -> None:
            # The workers share one iterator: each takes the next request when it is free.
            for place in places:
                answer = await self._ask(turns, call, place)
                if answer is not None:
                    self._count(call.take(place, answer))

        workers = [asyncio.create_task(work()) for _ in range(min(concurrency * len(servers), len(call.bodies)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await asyncio.gather(*(server.close() for server in servers))

    def _count(self, answer: Answer) -> None:
        """Counts an answer if it failed, and ends the job if too many have."""
        if answer.failure is not None:
            self._failed[answer.failure] += 1
            example = answer.detail or f"{answer.texts[0][:200]!r} (finish_reason {answer.finish_reasons[0]!r})"
            check_failed(self._failed, self._asked, self._max_failed, "requests", example)

    async def _ask(self, turns: Turns, call: "_Call", place: int) -> Answer | None:
        failed: list[Server] = []
        reached = False
        attempts = (self._retries + 1) * len(turns.servers)
        while True:
            # Every server once before the first is asked again.
            turn = await turns.take(avoid=failed[len(failed) // len(turns.servers) * len(turns.servers) :])
            try:
                answer = await turn.server.complete(call.bodies[place])
                turns.succeed(turn)
                return answer
            except Refused as error:
                raise InputError(f"request {place}: {turn.server.url} refuses it: {error}.") from error
            except NoAnswer as error:
                if error.throttled:
                    turns.refuse(turn, str(error), error.retry_after)
                else:
                    failed.append(turn.server)
                    turns.fail(turn, place, str(error), error.retry_after)
                lasts, reached = turns.last_failures(), reached or error.reached
                if len(failed) == attempts and reached:
                    return Answer(failure="no_answer", detail=f"no answer in {attempts} attempts ({lasts})")
                # Several requests that fail in a row are the servers' failure, unless no others are left.
                left = len(call.bodies) - call.answered
                few = reached and call.answered and left <= max(self._max_failed * self._asked, 1)
                down = turns.all_down(self._retries + 1, _DIFFERENT if reached else 1) and not few
                if down or len(failed) == attempts or (error.throttled and turns.all_silent()):
                    raise InputError(f"no server answers ({lasts}).") from error
            finally:
                turns.release(turn)


@dataclass
class _Call:
    """The requests of one call of `ServerPool.map`; the body None asks for no answer."""

    bodies: Sequence[Body | None]
    progress: Advance | None = None
    on_answer: OnAnswer | None = None
    review: Review | None = None
    answered: int = 0

    def __post_init__(self) -> None:
        self.answers: list[Answer | None] = [None] * len(self.bodies)

    def take(self, place: int, answer: Answer) -> Answer:
        """Reviews an answer, keeps it and passes it on."""
        self.answered += 1
        answer = reviewed(answer, self.review)
        self.answers[place] = answer
        if self.on_answer is not None:
            self.on_answer(place, answer)
        if self.progress is not None:
            self.progress(1)
        return answer


def reviewed(answer: Answer, review: Review | None) -> Answer:
    """The answer, as a failed one if the review says why it is of no use."""
    failure = None if review is None or answer.failure else review(answer)
    return replace(answer, failure=failure) if failure else answer


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
