"""One server of a pool: its connection, and what its replies mean."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sgpo.serving.answers import Answer, Body, NoAnswer, read_completion

# An unreachable host must time out much sooner than a slow answer.
_CONNECT_TIMEOUT = 10.0
# Statuses that say the same of every request: the key, the address, the model's name.
_OF_ALL = (401, 402, 403, 404, 405)
# What providers write about a request that they filter, or that exceeds the model's context.
_FILTERED = re.compile(r"content.?(filter|management|policy|safety)|moderation|flagged|inspection.?failed", re.I)
_TOO_LONG = re.compile(
    r"context.{0,3}(length|window|size)|max_model_len|too (long|many tokens|large)|longer than|tokens.{0,40} must be|"
    r"exceed.{0,60}(token|length|limit|size)",
    re.I,
)


class Refused(Exception):
    """The server reports that every request of this kind is wrong; neither a retry nor another request would help."""


class Server:
    """A server with the OpenAI API, at its base URL."""

    def __init__(self, url: str, api_key: str, timeout: float) -> None:
        from openai import AsyncOpenAI, Timeout

        self.url, self._api_key = url, api_key
        # The pool retries, perhaps elsewhere; the client would retry the same server.
        self._client = AsyncOpenAI(
            base_url=url,
            api_key=api_key,
            timeout=Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
            max_retries=0,
        )
        self.close = self._client.close

    async def complete(self, body: Body | None) -> Answer | None:
        """The answer to POST /chat/completions; raises Refused or NoAnswer. No body: None once reached."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        try:
            if body is None:
                await self._client.models.with_raw_response.list(timeout=_CONNECT_TIMEOUT)
                return None
            # Fields that the client does not know are sent as they are.
            reply = await self._client.chat.completions.with_raw_response.create(
                model=body["model"], messages=body["messages"], extra_body=body
            )
            return read_completion(reply.text)
        except APITimeoutError as error:
            raise NoAnswer("no reply in time") from error
        except APIConnectionError as error:
            raise NoAnswer(f"no connection ({error.__cause__ or error})", reached=False) from error
        except APIStatusError as error:
            return None if body is None else self._read_status(error.status_code, error.response)

    def _read_status(self, status: int, response: object) -> Answer:
        # Some servers quote the key that they reject.
        words = " ".join(response.text.replace(self._api_key, "***").split())
        failure = f"status {status}: {words if len(words) <= 300 else words[:297] + '...'}"
        if status in (408, 409, 429) or status >= 500:
            raise NoAnswer(failure, retry_after=_retry_after(response.headers), throttled=status == 429)
        if _FILTERED.search(response.text):
            return Answer(failure="filtered", detail=failure)
        if status in _OF_ALL:
            if status == 404 and not self.url.rstrip("/").endswith("/v1"):
                failure += " (base URLs usually end in /v1)"
            raise Refused(failure)
        too_long = status == 413 or _TOO_LONG.search(response.text)
        return Answer(failure="too_long" if too_long else "refused", detail=f"{self.url}: {failure}")


def _retry_after(headers: dict[str, str]) -> float | None:
    """Seconds: `retry-after-ms` counts milliseconds, `retry-after` seconds or until a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            return max(float(headers[name]) * unit, 0.0)
    with suppress(KeyError, ValueError, TypeError):
        return max((parsedate_to_datetime(headers["retry-after"]) - datetime.now(UTC)).total_seconds(), 0.0)
    return None
