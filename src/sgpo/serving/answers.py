"""What a server answered, read strictly: nothing is filled in that it did not say."""

import json
from dataclasses import dataclass, field


class Unusable(Exception):
    """A reply that holds no answer."""


@dataclass(frozen=True)
class Answer:
    """The choices of one chat completion.

    Attributes:
        texts: the text of each choice; may be empty where the model said nothing.
        finish_reasons: of each choice, as the server names it: "stop", "length", ...
        prompt_tokens, completion_tokens: as the server counts them over all choices; None where it does not say.
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
        Unusable: no JSON object, no choice, or a choice without a text (null content) or finish reason.
    """
    try:
        content = json.loads(reply)
    except json.JSONDecodeError as error:
        raise Unusable(f"a reply that is no JSON ({error.msg})") from error
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices:
        raise Unusable("a reply without choices")
    texts, reasons = [], []
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        text = message.get("content") if isinstance(message, dict) else None
        reason = choice.get("finish_reason") if isinstance(choice, dict) else None
        if not isinstance(text, str):
            raise Unusable("a choice without text")
        if not isinstance(reason, str):
            raise Unusable("a choice without finish_reason")
        texts.append(text)
        reasons.append(reason)
    usage = content.get("usage") or {}
    return Answer(
        tuple(texts),
        tuple(reasons),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        _first_logprobs(choices[0]),
    )


def _first_logprobs(choice: dict) -> dict[str, float]:
    tokens = (choice.get("logprobs") or {}).get("content") or []
    return {} if not tokens else {top["token"]: top["logprob"] for top in tokens[0].get("top_logprobs") or []}
