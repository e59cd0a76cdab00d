"""Chat completions from several servers that speak the OpenAI API: bounded, retried, and moved when one fails."""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from sgpo.errors import InputError
from sgpo.serving.answers import Answer, Unusable, read_completion
from sgpo.serving.server import Refused, Server, Silent
from sgpo.serving.turns import Turns

Body = dict[str, Any]


class ServerPool:
    """Several servers that are asked as one.

    A request goes to the server with the fewest open requests. Time-outs, refused connections, the statuses 408, 409,
    429 and 5xx, and replies that hold no answer are tried again; a server that fails is set aside, longer each time,
    and its requests go to the others (`sgpo.serving.turns`). Other statuses say that the request is wrong: they end
    the call.

    Args:
        urls: base URLs, such as http://localhost:8000/v1.
        api_key: None reads OPENAI_API_KEY, or sends "none". It goes to the servers and nowhere else.
        timeout: seconds for one attempt; connecting may take ten of them.
        retries: attempts of a request after the first at each server; also failures in a row, after the first, that
            all servers may have before the call ends.
        concurrency: open requests at each server.
        pause: seconds that the first failure sets a server aside; doubled each time, up to a minute.

    Raises:
        InputError: an argument is out of range, or the `openai` package is not installed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        api_key: str | None = None,
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
        for name, value, least in (("retries", retries, 0), ("concurrency", concurrency, 1)):
            if value < least:
                raise InputError(f"{name} is {value}; allowed: a whole number >= {least}.")
        for name, seconds in (("timeout", timeout), ("pause", pause)):
            if not seconds > 0:
                raise InputError(f"{name} is {seconds}; allowed: seconds > 0.")
        try:
            import openai  # noqa: F401 -- asked for here, so that a run says so before it starts
        except ImportError as error:
            raise InputError(
                "servers need the openai package, which is not installed: pip install 'sgpo[server]'."
            ) from error
        self.urls = tuple(urls)
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._timeout, self._retries, self._concurrency, self._pause = timeout, retries, concurrency, pause

    def map(
        self,
        bodies: Sequence[Body],
        *,
        progress: Callable[[int], None] | None = None,
        on_answer: Callable[[int, Answer], None] | None = None,
        concurrency: int | None = None,
    ) -> list[Answer]:
        """Asks for a completion of each request body of POST /v1/chat/completions.

        Args:
            bodies: N request bodies.
            progress: called with 1 for each answer.
            on_answer: called with the body's place and its answer as soon as that is there, in any order; what it was
                called with is not lost when the call fails later.
            concurrency: open requests at each server; None takes the pool's.

        Returns: N answers, in the order of the bodies.

        Raises:
            InputError: a server refuses a request (its status and words are quoted), or a request or all servers
                failed too often (the last failure of each server is named).
        """
        return asyncio.run(self._map(bodies, progress, on_answer, concurrency or self._concurrency))

    def _servers(self) -> list[Server]:
        # Connections belong to the event loop of one call.
        return [Server(url, self._api_key, self._timeout) for url in self.urls]

    async def _map(self, bodies, progress, on_answer, concurrency) -> list[Answer]:
        turns = Turns(self._servers(), limit=concurrency, pause=self._pause, longest=self._timeout)
        places = iter(range(len(bodies)))
        answers: list[Answer | None] = [None] * len(bodies)

        async def work() -> None:
            # An iterator shared by the workers: each takes the next request when it is free.
            for place in places:
                answers[place] = await self._ask(turns, bodies[place], place)
                if on_answer is not None:
                    on_answer(place, answers[place])
                if progress is not None:
                    progress(1)

        count = min(concurrency * len(self.urls), len(bodies))
        workers = [asyncio.create_task(work()) for _ in range(count)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await asyncio.gather(*(server.close() for server in turns.servers))
        return answers

    async def _ask(self, turns: Turns, body: Body, place: int) -> Answer:
        failed: list[Server] = []
        while True:
            # Each server once before the first is asked again.
            turn = await turns.take(avoid=failed[len(failed) // len(turns.servers) * len(turns.servers) :])
            try:
                answer = read_completion(await turn.server.complete(body))
                turns.succeed(turn)
                return answer
            except Refused as error:
                raise InputError(f"request {place}: {turn.server.url} refuses it: {error}.") from error
            except (Silent, Unusable) as error:
                failed.append(turn.server)
                turns.fail(turn, str(error), getattr(error, "retry_after", None))
                if turns.all_down(self._retries + 1):
                    raise InputError(f"no server answers ({turns.last_words()}).") from error
                if len(failed) == (self._retries + 1) * len(turns.servers):
                    raise InputError(
                        f"request {place}: no answer in {len(failed)} attempts ({turns.last_words()})."
                    ) from error
            finally:
                turns.release(turn)


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
