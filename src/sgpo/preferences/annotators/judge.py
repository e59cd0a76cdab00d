"""Rewards from a language model that is asked which of two answers is better, both ways round."""

import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from sgpo.errors import InputError
from sgpo.preferences.annotators.ranking import Advance, Messages, Ranking, as_text
from sgpo.serving.answers import Answer
from sgpo.serving.client import ServerPool

_VERDICT = re.compile(r"^\W*verdict\W*:\W*(a|b|tie)\W*$", re.IGNORECASE)
_RESULTS = {"a": 1.0, "b": 0.0, "tie": 0.5}
_FIELDS = ("{prompt}", "{first}", "{second}")
# What the parser reads; a template that does not ask for it gets no verdict.
_ASKED = ("Verdict: A", "Verdict: B")


class Judge:
    """An LLM judge over an OpenAI-compatible API.

    Every two responses of a prompt are shown twice, each once in front. Where the two verdicts contradict each other
    the comparison is a tie. A verdict is a line that reads "Verdict: A", "Verdict: B" or "Verdict: tie" in an answer
    that the judge has ended itself and that holds no other verdict; nothing else is one, and a comparison without two
    verdicts does not count. Empty responses are not asked about, and repetitions of one text only once. The reward of
    a response is the mean of its results: 1 won, 1/2 tie, 0 lost; nan where none of its comparisons counts.

    Args:
        pool: the servers.
        model: the judge's name there.
        template: file with {prompt}, {first} and {second} that asks for "Verdict: A" or "Verdict: B"; None takes the
            one that comes along.
        max_tokens: of an answer.
        temperature: of the judge's sampling.
        seed: sent with every request.
        max_chars: comparisons with more characters to read are not asked for, as a judge whose context they exceed
            would refuse them and end the run; None asks for all.
        request: further fields of a request, or other values of those above; a field that is None is left out.

    Raises:
        InputError: the template cannot be read, or is none; `max_chars` < 1.
    """

    def __init__(
        self,
        pool: ServerPool,
        model: str,
        *,
        template: str | Path | None = None,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        max_chars: int | None = None,
        request: dict[str, Any] | None = None,
    ) -> None:
        if max_chars is not None and max_chars < 1:
            raise InputError(f"max_chars is {max_chars}; allowed: None or a whole number >= 1.")
        self._pool, self._template, self._max_chars = pool, read_template(template), max_chars
        fields = {"model": model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed, **(request or {})}
        self._request = {name: value for name, value in fields.items() if value is not None}

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Ranks P lists of responses; see `Annotator`.

        Counts: `comparisons` that were asked for; of these `ties`, `inconsistent` (which are ties) and `unparsed`
        (which do not count); `first_preferred`, verdicts for whichever was in front; and `too_long`, not asked for.

        Raises:
            InputError: see `ServerPool.map`.
        """
        texts = [list(dict.fromkeys(text.strip() for text in row if text.strip())) for row in responses]
        duels, questions, too_long = [], [], 0
        for row, distinct in enumerate(texts):
            for first, second in combinations(distinct, 2):
                question = fill_template(self._template, prompts[row], first, second)
                if self._max_chars is not None and len(question) > self._max_chars:
                    too_long += 1
                    continue
                duels.append((row, first, second))
                questions += [question, fill_template(self._template, prompts[row], second, first)]
        share = len(prompts) / max(len(questions), 1)
        answers = self._pool.map(
            [{**self._request, "messages": [{"role": "user", "content": question}]} for question in questions],
            progress=None if progress is None else lambda count: progress(count * share),
        )
        counts = Counter(dict.fromkeys(("comparisons", "ties", "inconsistent", "unparsed", "first_preferred"), 0))
        counts["too_long"] = too_long
        results: dict[tuple[int, str], list[float]] = {}
        for number, (row, first, second) in enumerate(duels):
            result = settle_duel(*map(read_verdict, answers[2 * number : 2 * number + 2]), counts)
            if result is not None:
                results.setdefault((row, first), []).append(result)
                results.setdefault((row, second), []).append(1 - result)
        rewards = [
            float(np.mean(results.get((row, text.strip()), np.nan)))
            for row, candidates in enumerate(responses)
            for text in candidates
        ]
        return Ranking(np.array(rewards, dtype=np.float64), dict(counts))


def read_template(
    path: str | Path | None, *, default: str = "judge_template.txt", asked: Sequence[str] = _ASKED
) -> str:
    """The text of a template; None: the one that comes along.

    Args:
        path: the file.
        default: name of the one that comes along.
        asked: texts that it must hold, as the verdicts that are read are asked for by them.

    Raises:
        InputError: it cannot be read, lacks {prompt}, {first} or {second}, has another {name}, or does not ask for the
            verdicts that are read.
    """
    if path is None:
        return files("sgpo.preferences.annotators").joinpath(default).read_text(encoding="utf-8")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"template {path}: cannot be read ({error}).") from error
    missing = [field for field in _FIELDS if field not in text]
    if missing:
        raise InputError(f"template {path} lacks {', '.join(missing)}; allowed: all of {', '.join(_FIELDS)}.")
    unknown = [name for name in re.findall(r"\{\w+\}", text) if name not in _FIELDS]
    if unknown:
        raise InputError(f"template {path} has {', '.join(unknown)}; allowed: {', '.join(_FIELDS)}.")
    unasked = [verdict for verdict in asked if verdict not in text]
    if unasked:
        raise InputError(
            f"template {path} does not say {' or '.join(map(repr, unasked))}; allowed: a text that asks for one of the "
            "lines 'Verdict: A', 'Verdict: B', 'Verdict: tie', as nothing else is read."
        )
    return text


def fill_template(template: str, prompt: Messages, first: str, second: str) -> str:
    """A template with its three places filled; braces elsewhere, and in what is filled in, stay as they are."""
    values = dict(zip(_FIELDS, (as_text(prompt), first, second), strict=True))
    return re.sub("|".join(map(re.escape, _FIELDS)), lambda match: values[match[0]], template)


def read_verdict(answer: Answer) -> float | None:
    """1 for A, 0 for B, 1/2 for a tie; None where the answer is cut off, or has no verdict or two different ones."""
    if answer.finish_reasons[0] != "stop":
        return None
    found = {match[1].lower() for line in answer.texts[0].splitlines() if (match := _VERDICT.match(line))}
    return _RESULTS[found.pop()] if len(found) == 1 else None


def settle_duel(straight: float | None, swapped: float | None, counts: Counter) -> float | None:
    """The first response's result from the two verdicts, 1, 1/2 or 0; None where one of them is missing.

    Args:
        straight: verdict with the first response in front.
        swapped: verdict with the second in front.
        counts: gets comparisons, ties, inconsistent (also ties), unparsed, and first_preferred: verdicts for whichever
            was in front.
    """
    counts["comparisons"] += 1
    counts["first_preferred"] += (straight == 1.0) + (swapped == 1.0)
    if straight is None or swapped is None:
        counts["unparsed"] += 1
        return None
    if straight == 1 - swapped:
        counts["ties"] += straight == 0.5
        return straight
    counts["ties"] += 1
    counts["inconsistent"] += 1
    return 0.5
