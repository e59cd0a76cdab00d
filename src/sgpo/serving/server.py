"""One server of a pool: its connection, and what its replies mean."""

from contextlib import suppress

from sgpo.serving.answers import Answer, Body, NoAnswer, read_completion

# An unreachable host must time out much sooner than a slow answer.
_CONNECT_TIMEOUT = 10.0


class Refused(Exception):
    """The server reports that the request is wrong; a retry would not help."""


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
            raise NoAnswer(f"no connection ({error.__cause__ or error})") from error
        except APIStatusError as error:
            if body is None:
                return None
            failure = f"status {error.status_code}: {self._quote(error.response.text)}"
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                raise NoAnswer(failure, _retry_after(error.response.headers.get("retry-after", ""))) from error
            if error.status_code == 404 and not self.url.rstrip("/").endswith("/v1"):
                failure += " (base URLs usually end in /v1)"
            raise Refused(failure) from error

    def _quote(self, text: str) -> str:
        # Some servers quote the key that they reject.
        words = " ".join(text.replace(self._api_key, "***").split())
        return words if len(words) <= 300 else words[:297] + "..."


def _retry_after(header: str) -> float | None:
    with suppress(ValueError):
        return max(float(header), 0.0)
    return None
