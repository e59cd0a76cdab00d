"""Rewards from a language model that is asked which of two answers is better, both ways round."""

import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np

from sgpo.errors import InputError
from sgpo.preferences.annotators.ranking import Advance, Messages, Ranking, as_text
from sgpo.serving.answers import Answer
from sgpo.serving.client import ServerPool

_VERDICT = re.compile(r"^\W*verdict\W*:\W*(a|b|tie)\W*$", re.IGNORECASE)
_FIELDS = ("{prompt}", "{first}", "{second}")


class Judge:
    """An LLM judge over an OpenAI-compatible API.

    Every pair of a prompt's responses is shown twice, each response once in front. Where the two answers contradict
    each other the comparison is a tie. The last line of an answer that reads "Verdict: A", "Verdict: B" or "Verdict:
    tie" counts, and nothing else does: a comparison without two verdicts is no comparison. The reward of a response is
    the mean of its results: 1 won, 1/2 tie, 0 lost; nan where none of its comparisons counts.

    Args:
        pool: the servers.
        model: the judge's name there.
        template: file with {prompt}, {first} and {second}; None takes the one that comes along.
        max_tokens: of an answer.
        temperature: of the judge's sampling.
        seed: sent with every request.

    Raises:
        InputError: the template cannot be read, or lacks one of the three.
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
    ) -> None:
        self._pool, self._template = pool, read_template(template)
        self._request = {"model": model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Ranks P lists of responses; see `Annotator`.

        Raises:
            InputError: see `ServerPool.map`.
        """
        duels = [
            (row, first, second)
            for row, texts in enumerate(responses)
            for first, second in combinations(range(len(texts)), 2)
        ]
        bodies = [
            {
                **self._request,
                "messages": [{"role": "user", "content": fill_template(self._template, prompts[row], *shown)}],
            }
            for row, first, second in duels
            for shown in _both_orders(responses[row][first], responses[row][second])
        ]
        each = len(prompts) / max(len(bodies), 1)
        answers = self._pool.map(bodies, progress=None if progress is None else lambda count: progress(count * each))
        starts = np.concatenate([[0], np.cumsum([len(texts) for texts in responses])])
        points, played = np.zeros(starts[-1]), np.zeros(starts[-1])
        counts = Counter(dict.fromkeys(("comparisons", "ties", "inconsistent", "unparsed", "first_preferred"), 0))
        for number, (row, first, second) in enumerate(duels):
            result = settle_duel(*map(read_verdict, answers[2 * number : 2 * number + 2]), counts)
            if result is not None:
                places = starts[row] + np.array([first, second])
                points[places] += result, 1 - result
                played[places] += 1
        rewards = np.full(len(points), np.nan)
        np.divide(points, played, out=rewards, where=played > 0)
        return Ranking(rewards, dict(counts))


def read_template(path: str | Path | None) -> str:
    """The text of a template; None: the one that comes along.

    Raises:
        InputError: it cannot be read, or lacks {prompt}, {first} or {second}.
    """
    if path is None:
        return files("sgpo.preferences.annotators").joinpath("judge_template.txt").read_text(encoding="utf-8")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"template {path}: cannot be read ({error}).") from error
    missing = [field for field in _FIELDS if field not in text]
    if missing:
        raise InputError(f"template {path} lacks {', '.join(missing)}; allowed: all of {', '.join(_FIELDS)}.")
    return text


def fill_template(template: str, prompt: Messages, first: str, second: str) -> str:
    """A template with its three places filled; braces elsewhere, and in what is filled in, stay as they are."""
    values = dict(zip(_FIELDS, (as_text(prompt), first, second), strict=True))
    return re.sub("|".join(map(re.escape, _FIELDS)), lambda match: values[match[0]], template)


def read_verdict(answer: Answer) -> float | None:
    """1 for A, 0 for B, 1/2 for a tie, by the last line of the answer that is a verdict; None where there is none."""
    for line in reversed(answer.texts[0].splitlines()):
        if match := _VERDICT.match(line):
            return {"a": 1.0, "b": 0.0, "tie": 0.5}[match[1].lower()]
    return None


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


def _both_orders(first: str, second: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (first, second), (second, first)
