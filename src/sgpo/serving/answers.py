"""Requests to a server and its answers, read strictly: nothing is filled in that the server did not send."""

import json
from dataclasses import dataclass, field
from typing import Any

# The JSON body of a request.
Body = dict[str, Any]


class Unusable(Exception):
    """A reply that holds no answer."""


@dataclass(frozen=True)
class Answer:
    """The choices of one chat completion.

    Attributes:
        texts: the text of each choice; empty if the model generated none.
        finish_reasons: of each choice, as the server names it: "stop", "length", ...
        prompt_tokens, completion_tokens: as the server counts them over all choices; None if it does not.
        top_logprobs: of the first token of the first choice, {token: log-probability}; empty unless asked for.
    """

    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    top_logprobs: dict[str, float] = field(default_factory=dict)


def read_completion(reply: str) -> Answer:
    """Reads the JSON of a chat completion.

    Raises:
        Unusable: no JSON object, no choice, a choice without a text (null content) or finish reason, one that the
            server aborted, or a part of another form.
    """
    try:
        content = json.loads(reply)
    except (json.JSONDecodeError, RecursionError) as error:
        raise Unusable(f"a reply that is not JSON ({error})") from error
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices:
        raise Unusable("a reply without choices")
    texts, reasons = zip(*map(_read_choice, choices), strict=True)
    usage = content.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = (_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
    return Answer(texts, reasons, *counts, _first_logprobs(choices[0]))


def _read_choice(choice: object) -> tuple[str, str]:
    message = choice.get("message") if isinstance(choice, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    reason = choice.get("finish_reason") if isinstance(choice, dict) else None
    if text is None and reason == "length" and isinstance(message, dict):
        # A reasoning model that was cut before its answer: asking again would not change that.
        text = ""
    if not isinstance(text, str):
        raise Unusable("a choice without text")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise Unusable("a text that is not Unicode: half of a surrogate pair")
    if not isinstance(reason, str):
        raise Unusable("a choice without finish_reason")
    if reason in ("abort", "error"):
        # vLLM reports this if it is stopped, or fails, during a request.
        raise Unusable(f"a choice that the server aborted (finish_reason {reason!r})")
    return text, reason


def _count(usage: dict, name: str) -> int | None:
    count = usage.get(name)
    if count is not None and (type(count) is not int or count < 0):
        raise Unusable(f"{name} that is not a count")
    return count


def _first_logprobs(choice: dict) -> dict[str, float]:
    try:
        tokens = (choice.get("logprobs") or {}).get("content") or []
        tops = tokens[0].get("top_logprobs") or [] if tokens else []
        return {top["token"]: float(top["logprob"]) for top in tops}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unusable("logprobs of another form") from error
