"""How an LLM judge is asked which of two answers is better, and how its verdicts are read."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sgpo.choices import Failure
from sgpo.config.options import VerdictOptions
from sgpo.errors import InputError
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.ranking import as_text
from sgpo.serving.answers import Answer, Body
from sgpo.store.files import read_text

_VERDICT = re.compile(r"^\W*verdict\W*:\W*(a|b|tie)\W*$", re.IGNORECASE)
_RESULTS = {"a": 1.0, "b": 0.0, "tie": 0.5}
_LETTERS = ("A", "B")
_FIELDS = ("{prompt}", "{first}", "{second}")
# The parser reads these; a template that does not ask for them gets no verdict.
_ASKED = ("Verdict: A", "Verdict: B")
NEEDS_LOGPROBS = "log-probability judging needs a server that gives logprobs of the first token"


class PairwiseJudge:
    """An LLM judge, `model` on its servers, that sees every two answers in both orders: verdicts in words
    (`read_verdict`), of which two that contradict each other are a tie, or with `logprobs` by the first token
    (`read_letter`), averaged."""

    def __init__(
        self, model: str, options: VerdictOptions, *, template: str | Path | None = None, logprobs: bool = False
    ) -> None:
        self.logprobs, self._max_chars = logprobs, options.max_chars
        self._template = read_template(template, logprobs=logprobs)
        fields = {"model": model, **options.model_dump(include={"max_tokens", "temperature", "seed"})}
        if logprobs:
            fields |= {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
        self._fields = {name: value for name, value in {**fields, **options.request}.items() if value is not None}

    def requests(self, prompt: Messages, first: str, second: str) -> list[Body] | None:
        """The bodies of two requests, with the first answer in front and with the second; None if they are too long."""
        texts = [fill_template(self._template, prompt, *shown) for shown in ((first, second), (second, first))]
        if self._max_chars is not None and len(texts[0]) > self._max_chars:
            return None
        return [{**self._fields, "messages": [{"role": "user", "content": text}]} for text in texts]

    def read(self, answer: Answer) -> float | None:
        """The share of the win, in [0, 1], that goes to the answer in front; None if there is no verdict."""
        return read_letter(answer.top_logprobs) if self.logprobs else read_verdict(answer)

    def review(self, answer: Answer) -> Failure | None:
        """What `ServerPool.map` asks of an answer: whether it has a verdict."""
        return "no_verdict" if self.read(answer) is None else None

    def settle(self, answers: Sequence[Answer], counts: Counter) -> "Settled":
        """The first of two answers compared by the answers to `requests`. `counts` gets comparisons; of these ties,
        inconsistent (in words also ties) and failures by reason; and first_preferred, verdicts for the response shown
        first."""
        straight, swapped = (None if one.failure else self.read(one) for one in answers)
        counts["comparisons"] += 1
        counts["first_preferred"] += sum(share is not None and share > 0.5 for share in (straight, swapped))
        failure = answers[0].failure or answers[1].failure
        if failure is not None:
            # A judge that thinks and says nothing gives no verdict, as one that says something else.
            failure = "no_verdict" if failure == "no_text" else failure
            counts[failure] += 1
            return Settled(straight, swapped, None, failure)
        if self.logprobs:
            counts["inconsistent"] += (straight - 0.5) * (swapped - 0.5) > 0
            return Settled(straight, swapped, (straight + 1 - swapped) / 2)
        consistent = straight == 1 - swapped
        counts["inconsistent"] += not consistent
        counts["ties"] += straight == 0.5 or not consistent
        return Settled(straight, swapped, straight if consistent else 0.5)


class Settled(NamedTuple):
    """A comparison: the verdict with the first answer in front (`straight`) and with the second (`swapped`), the first
    answer's `result` in [0, 1], and why there is none."""

    straight: float | None
    swapped: float | None
    result: float | None
    failure: Failure | None = None


def read_verdict(answer: Answer) -> float | None:
    """1 for A, 0 for B, 1/2 for a tie; None if the answer is cut off, or has no verdict or two different ones."""
    if answer.finish_reasons[0] != "stop":
        return None
    found = {match[1].lower() for line in answer.texts[0].splitlines() if (match := _VERDICT.match(line))}
    return _RESULTS[found.pop()] if len(found) == 1 else None


def read_letter(logprobs: Mapping[str, float]) -> float | None:
    """The probability of "A" as a share of "A" and "B", tokens that are the letter apart from white space added up;
    None if the likeliest token is neither: that judge gives no verdict. Source: AlpacaEval 2, arXiv:2404.04475, Section
    2."""
    likeliest = max(logprobs, key=lambda token: logprobs[token], default="")
    if likeliest.strip() not in _LETTERS or not math.isfinite(logprobs[likeliest]):
        return None
    # Relative to the likeliest token, so that no exponential overflows and one of them is 1.
    first, second = (
        math.fsum(math.exp(value - logprobs[likeliest]) for token, value in logprobs.items() if token.strip() == letter)
        for letter in _LETTERS
    )
    return first / (first + second)


def read_template(path: str | Path | None, *, logprobs: bool = False) -> str:
    """The text of a template, or of the built-in one. InputError: it cannot be read, lacks {prompt}, {first} or
    {second}, has another {name}, or does not ask for the verdicts that are read."""
    if path is None:
        default = "letter_template.txt" if logprobs else "judge_template.txt"
        return Path(__file__).with_name(default).read_text(encoding="utf-8")
    text = read_text(path)
    missing = [field for field in _FIELDS if field not in text]
    if missing:
        raise InputError(f"template {path} lacks {', '.join(missing)}; allowed: all of {', '.join(_FIELDS)}.")
    unknown = [name for name in re.findall(r"\{\w+\}", text) if name not in _FIELDS]
    if unknown:
        raise InputError(f"template {path} has {', '.join(unknown)}; allowed: {', '.join(_FIELDS)}.")
    unasked = [verdict for verdict in _ASKED if verdict not in text and not logprobs]
    if unasked:
        raise InputError(
            f"template {path} does not contain {' or '.join(map(repr, unasked))}; allowed: a text that asks for one of "
            "the lines 'Verdict: A', 'Verdict: B', 'Verdict: tie', as nothing else is read."
        )
    return text


def fill_template(template: str, prompt: Messages, first: str, second: str) -> str:
    """A template with its three fields filled in; other braces, and those in the values, stay as they are."""
    values = dict(zip(_FIELDS, (as_text(prompt), first, second), strict=True))
    return re.sub("|".join(map(re.escape, _FIELDS)), lambda match: values[match[0]], template)
