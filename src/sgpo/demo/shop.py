"""The shop world: customers ask for facts about an article, and a gold reward scores the answers."""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sgpo.demo.answers import CLOSINGS, OPENINGS, draw_answer
from sgpo.demo.requests import CLAUSES, FACTS, VALUES, Request, draw_request, parse_request
from sgpo.errors import InputError

SPLITS = ("sft", "seeds", "pool", "test")
# Nats of reward per attribute, for a reward of general manners and for one of facts of the request.
GENERAL = {"politeness": 6.0, "no_repetition": 2.0, "length": 1.0, "answers": 2.0, "focus": 2.0, "facts": 0.5}
FACTUAL = {"politeness": 0.0, "no_repetition": 1.0, "length": 1.0, "answers": 2.0, "focus": 1.0, "facts": 5.0}

_SHORTEST, _LONGEST = 7, 28
_STATED = {fact: re.compile(CLAUSES[fact].format(rf"({'|'.join(VALUES[fact])})") + r"\b") for fact in FACTS}


@dataclass(frozen=True)
class ShopWorld:
    """A world of short requests and answers whose gold reward is known.

    Attributes:
        facts: in [0, 1], how much of the reward is facts of the request. At 0 it is mostly manners, which an implicit
            reward learns from a few seeds and which generalise to new requests; at 1 it is mostly whether the stated
            facts are the article's own, which a small model cannot judge if there is a distractor.
        flip_rate: probability that the annotator's label is flipped, in [0, 1].
        scale: > 0, what the reward is multiplied by; the annotator follows a larger one more often.
        distractor: whether a request lists a second article; a small model does not learn to tell their facts apart.

    Raises:
        InputError: a number is out of range.
    """

    facts: float = 0.0
    flip_rate: float = 0.0
    scale: float = 1.0
    distractor: bool = True

    def __post_init__(self) -> None:
        for name in ("facts", "flip_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: a number in [0, 1].")
        if not 0 < self.scale < math.inf:
            raise InputError(f"scale is {self.scale}; allowed: a number > 0.")

    def prompts(self, n: int, seed: int, split: str) -> list[str]:
        """n distinct requests of a split; splits share no request, for any seeds."""
        return [request.text for request in self._draw_requests(n, seed, split)]

    def gold_reward(self, prompt: str, response: str) -> float:
        """The gold reward of a response, in nats; between GENERAL and FACTUAL its weights are linear in `facts`."""
        return self._reward(attributes(parse_request(prompt), response))

    def rewards(
        self, prompts: Sequence[Sequence[dict[str, str]]], responses: Sequence[Sequence[str]]
    ) -> dict[str, list[list[float]]]:
        """Of P lists of responses to P conversations that end in a request: `reward`, in nats, and the attributes."""
        found = [
            [attributes(parse_request(messages[-1]["content"]), response) for response in row]
            for messages, row in zip(prompts, responses, strict=True)
        ]
        heaviest_first = sorted(GENERAL, key=self._weight, reverse=True)
        parts = {name: [[one[name] for one in row] for row in found] for name in heaviest_first}
        return {"reward": [[self._reward(one) for one in row] for row in found], **parts}

    def _weight(self, name: str) -> float:
        return self.scale * ((1 - self.facts) * GENERAL[name] + self.facts * FACTUAL[name])

    def _reward(self, found: dict[str, float]) -> float:
        return sum(self._weight(name) * value for name, value in found.items())

    def sft_rows(self, n: int, seed: int) -> list[dict[str, str]]:
        """n rows of mixed quality to train an SFT model on: prompt and response."""
        rng = _rng(seed, "answers of the sft split")
        return [
            {"prompt": request.text, "response": draw_answer(request, rng)}
            for request in self._draw_requests(n, seed, "sft")
        ]

    def labelled_pairs(self, n: int, seed: int, split: str) -> list[dict[str, str]]:
        """n pairs of different corpus answers with the annotator's labels: prompt, chosen and rejected."""
        rng = _rng(seed, f"answers of the {split} split")
        drawn = [(request.text, *_draw_two(request, rng)) for request in self._draw_requests(n, seed, split)]
        firsts, seconds = ([self.gold_reward(row[0], row[place]) for row in drawn] for place in (1, 2))
        kept = prefers_first(firsts, seconds, flip_rate=self.flip_rate, rng=rng)
        return [
            {"prompt": text, "chosen": first if keep else second, "rejected": second if keep else first}
            for (text, first, second), keep in zip(drawn, kept, strict=True)
        ]

    def _draw_requests(self, n: int, seed: int, split: str) -> Iterator[Request]:
        if split not in SPLITS:
            raise InputError(f"split is {split!r}; allowed: {', '.join(SPLITS)}.")
        rng = _rng(seed, split)
        seen: set[str] = set()
        while len(seen) < n:
            request = draw_request(rng, self.distractor)
            if request.text not in seen and _split_of(request.text) == split:
                seen.add(request.text)
                yield request


def attributes(request: Request, response: str) -> dict[str, float]:
    """Attributes of a response, each in [0, 1]; 1 is best.

    politeness: 1/2, plus 1/4 each for a courteous opening and a kind closing, minus 1/4 each for curt ones.
    no_repetition: share of distinct sentences.
    length: 1 from 7 to 28 words; falls linearly to 0 at 0 and at 56 words.
    answers: share of the requested facts for which a value is stated.
    focus: 1, minus 1/3 for a fact that was not requested, and minus 1/3 if the article is not named.
    facts: share of the requested facts whose only stated value is the right one.
    """
    good = sum(_has(response, phrases.good) for phrases in (OPENINGS, CLOSINGS))
    bad = sum(_has(response, phrases.bad) for phrases in (OPENINGS, CLOSINGS))
    sentences = [found for sentence in re.findall(r"[^.!?]+", response) if (found := sentence.strip().lower())]
    words = len(response.split())
    stated = {fact: set(pattern.findall(response)) for fact, pattern in _STATED.items()}
    own, asked = request.subject.facts, request.asked
    unasked = sum(bool(stated[fact]) for fact in FACTS if fact not in asked)
    return {
        "politeness": 0.5 + (good - bad) / 4,
        "no_repetition": len(set(sentences)) / max(len(sentences), 1),
        "length": max(0.0, min(1.0, words / _SHORTEST, 1 - (words - _LONGEST) / _LONGEST)),
        "answers": sum(bool(stated[fact]) for fact in asked) / len(asked),
        "focus": max(0.0, 1 - (unasked + (request.subject.name not in response)) / 3),
        "facts": sum(stated[fact] == {own[fact]} for fact in asked) / len(asked),
    }


def _has(response: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in response for phrase in phrases)


def prefers_first(first: ArrayLike, second: ArrayLike, *, flip_rate: float, rng: np.random.Generator) -> np.ndarray:
    """Labels of a Bradley-Terry annotator, (N,) bool, from gold rewards (N,) in nats: the first is preferred with
    probability `(1 - flip_rate) sigma(first - second) + flip_rate sigma(second - first)`."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    preferred = rng.random(difference.shape) < 1 / (1 + np.exp(-difference))
    return preferred ^ (rng.random(difference.shape) < flip_rate)


def _draw_two(request: Request, rng: np.random.Generator) -> tuple[str, str]:
    first = second = draw_answer(request, rng)
    while second == first:
        second = draw_answer(request, rng)
    return first, second


def _split_of(text: str) -> str:
    """The split of a request; its text alone decides, so that no request is in two splits."""
    return SPLITS[hashlib.sha256(text.encode()).digest()[0] % len(SPLITS)]


def _rng(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")])
