"""Requests to a server and its answers, read strictly: nothing is filled in that the server did not send."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sgpo.choices import Failure
from sgpo.store.files import is_unicode

# The JSON body of a request.
Body = dict[str, Any]
# Called with the position of a body and its answer.
OnAnswer = Callable[[int, "Answer"], None]


class NoAnswer(Exception):
    """The server gave no answer, or could not; a retry may help, after `retry_after` seconds if the server asks for
    them. `throttled`: it answers, but not so many requests; not `reached`: there was no connection."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, throttled: bool = False, reached: bool = True
    ) -> None:
        super().__init__(message)
        self.retry_after, self.throttled, self.reached = retry_after, throttled, reached


@dataclass(frozen=True)
class Answer:
    """The choices of one chat completion, as the server names and counts them; `top_logprobs` are those of the first
    token of the first choice. With a `failure`, a retry would not help, no text can be used, and `detail` says what
    happened."""

    texts: tuple[str, ...] = ()
    finish_reasons: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    top_logprobs: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    detail: str = ""


def read_completion(reply: str) -> Answer:
    """Reads the JSON of a chat completion; raises NoAnswer if a part is missing or has another form."""
    try:
        content = _object(json.loads(reply))
    except (json.JSONDecodeError, RecursionError) as error:
        raise NoAnswer(f"a reply that is not JSON ({error})") from error
    choices = content.get("choices")
    if not isinstance(choices, list) or not choices:
        raise NoAnswer("a reply without choices")
    usage, texts, reasons = _object(content.get("usage")), (), ()
    for choice in choices:
        read = _read_choice(choice)
        if read.failure is not None:
            return read
        texts, reasons = texts + read.texts, reasons + read.finish_reasons
    counts = [_count(usage, name) for name in ("prompt_tokens", "completion_tokens")]
    return Answer(texts, reasons, *counts, _first_logprobs(choices[0]))


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_choice(choice: object) -> Answer:
    message, reason = _object(_object(choice).get("message")), _object(choice).get("finish_reason")
    text = message.get("content")
    if not isinstance(reason, str):
        raise NoAnswer("a choice without finish_reason")
    if reason in ("abort", "error"):
        # vLLM reports this if it is stopped, or fails, during a request.
        raise NoAnswer(f"a choice that the server aborted (finish_reason {reason!r})")
    if reason == "content_filter" or (message.get("refusal") and not text):
        return Answer(failure="filtered", detail=f"finish_reason {reason!r}, refusal {message.get('refusal')!r}")
    if text is None and message and reason == "length":
        # A reasoning model that was cut before its answer.
        text = ""
    if not isinstance(text, str):
        return Answer(failure="no_text", detail=f"a choice without text (finish_reason {reason!r})")
    if not is_unicode(text):
        return Answer(failure="not_unicode", detail="a text that is not Unicode: half of a surrogate pair")
    return Answer((text,), (reason,))


def _count(usage: dict, name: str) -> int | None:
    count = usage.get(name)
    if count is not None and (type(count) is not int or count < 0):
        raise NoAnswer(f"{name} that is not a count")
    return count


def _first_logprobs(choice: dict) -> dict[str, float]:
    try:
        tokens = (choice.get("logprobs") or {}).get("content") or []
        tops = tokens[0].get("top_logprobs") or [] if tokens else []
        return {top["token"]: float(top["logprob"]) for top in tops if is_unicode(top["token"])}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NoAnswer("logprobs of another form") from error
