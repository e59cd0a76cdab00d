"""Chat completions from several servers with the OpenAI API: bounded, retried, and moved when a server fails."""

import asyncio
import os
from collections.abc import Sequence
from importlib.util import find_spec
from urllib.parse import urlsplit

from sgpo.errors import InputError, check_whole
from sgpo.serving.answers import Answer, Body, NoAnswer, OnAnswer
from sgpo.serving.server import Refused, Server
from sgpo.serving.turns import Turns
from sgpo.store.progress import Advance


class ServerPool:
    """Several servers that are used as one.

    A request goes to the server with the fewest open requests. Time-outs, refused connections, the statuses 408, 409,
    429 and 5xx, and replies without an answer are retried. A server that fails is paused, longer each time, and its
    requests go to the others. Other statuses mean that the request is wrong: they end the call.

    The key of the servers is read from OPENAI_API_KEY; without one, "none" is sent.

    Args:
        urls: base URLs, such as http://localhost:8000/v1.
        timeout: seconds for one attempt, of which connecting may take ten.
        retries: attempts of a request after the first at each server; also failures in a row, after the first, that all
            servers may have before the call ends.
        concurrency: open requests at each server.
        pause: seconds that a server is paused after its first failure; doubled each time, up to a minute.

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
        # Imported with the first request; checked here so that a run fails before it starts.
        if find_spec("openai") is None:
            raise InputError("servers need the openai package, which is not installed: pip install 'sgpo[server]'.")
        self._urls = tuple(urls)
        self._api_key = os.environ.get("OPENAI_API_KEY") or "none"
        self._timeout, self._retries, self._concurrency, self._pause = timeout, retries, concurrency, pause

    def map(
        self,
        bodies: Sequence[Body],
        *,
        progress: Advance | None = None,
        on_answer: OnAnswer | None = None,
        concurrency: int | None = None,
    ) -> list[Answer]:
        """Asks for a completion of each of N request bodies of POST /v1/chat/completions.

        Args:
            bodies: N request bodies.
            progress: called with 1 for each answer.
            on_answer: called with the body's position and its answer as soon as that arrives, in any order; these
                answers are not lost if the call fails later.
            concurrency: open requests at each server; None uses the pool's.

        Raises:
            InputError: a server refuses a request (its status and message are quoted), or a request or all servers
                failed too often (the last failure of each server is named).
        """
        return asyncio.run(self._map(bodies, progress, on_answer, concurrency or self._concurrency))

    def check(self) -> None:
        """Raises InputError if no server can be reached in as many attempts as a request gets; asks for no answer."""
        asyncio.run(self._map([None], None, None, 1))

    async def _map(
        self, bodies: Sequence[Body | None], progress: Advance | None, on_answer: OnAnswer | None, concurrency: int
    ) -> list[Answer]:
        # Connections belong to the event loop of one call.
        servers = [Server(url, self._api_key, self._timeout) for url in self._urls]
        turns = Turns(servers, limit=concurrency, pause=self._pause, longest=self._timeout)
        places = iter(range(len(bodies)))
        answers: list[Answer | None] = [None] * len(bodies)

        async def work() -> None:
            # The workers share one iterator: each takes the next request when it is free.
            for place in places:
                answers[place] = await self._ask(turns, bodies[place], place)
                if on_answer is not None:
                    on_answer(place, answers[place])
                if progress is not None:
                    progress(1)

        workers = [asyncio.create_task(work()) for _ in range(min(concurrency * len(servers), len(bodies)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await asyncio.gather(*(server.close() for server in servers))
        return answers

    async def _ask(self, turns: Turns, body: Body | None, place: int) -> Answer | None:
        failed: list[Server] = []
        while True:
            # Every server once before the first is asked again.
            turn = await turns.take(avoid=failed[len(failed) // len(turns.servers) * len(turns.servers) :])
            try:
                answer = await turn.server.complete(body)
                turns.succeed(turn)
                return answer
            except Refused as error:
                raise InputError(f"request {place}: {turn.server.url} refuses it: {error}.") from error
            except NoAnswer as error:
                failed.append(turn.server)
                turns.fail(turn, str(error), error.retry_after)
                if turns.all_down(self._retries + 1):
                    raise InputError(f"no server answers ({turns.last_failures()}).") from error
                if len(failed) == (self._retries + 1) * len(turns.servers):
                    raise InputError(
                        f"request {place}: no answer in {len(failed)} attempts ({turns.last_failures()})."
                    ) from error
            finally:
                turns.release(turn)


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
