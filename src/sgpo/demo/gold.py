"""The gold reward of the shop world: a weighted sum of attributes of the text."""

import re

from sgpo.demo.answers import COURTEOUS_OPENINGS, CURT_CLOSINGS, CURT_OPENINGS, KIND_CLOSINGS
from sgpo.demo.requests import CLAUSES, FACTS, VALUES, Request

# Nats of reward per attribute, for a reward of general manners and for one of facts of the request.
GENERAL = {"politeness": 6.0, "no_repetition": 2.0, "length": 1.0, "answers": 2.0, "focus": 2.0, "facts": 0.5}
FACTUAL = {"politeness": 0.0, "no_repetition": 1.0, "length": 1.0, "answers": 2.0, "focus": 1.0, "facts": 5.0}

SHORTEST, LONGEST = 7, 28
_STATED = {fact: re.compile(CLAUSES[fact].format(rf"({'|'.join(VALUES[fact])})") + r"\b") for fact in FACTS}


def attributes(request: Request, response: str) -> dict[str, float]:
    """Attributes of a response, each in [0, 1]; 1 is best.

    politeness: 1/2, plus 1/4 each for a courteous opening and a kind closing, minus 1/4 each for curt ones.
    no_repetition: share of distinct sentences.
    length: 1 from 7 to 28 words; falls linearly to 0 at 0 and at 56 words.
    answers: share of the requested facts for which a value is stated.
    focus: 1, minus 1/3 for a fact that was not requested, and minus 1/3 if the article is not named.
    facts: share of the requested facts whose only stated value is the right one.
    """
    sentences = [sentence.lower() for sentence in re.findall(r"[^.!?]+", response) if sentence.strip()]
    stated = {fact: set(pattern.findall(response)) for fact, pattern in _STATED.items()}
    own = request.subject.facts
    unasked = sum(bool(stated[fact]) for fact in FACTS if fact not in request.asked)
    return {
        "politeness": _politeness(response),
        "no_repetition": len({sentence.strip() for sentence in sentences}) / max(len(sentences), 1),
        "length": _length(len(response.split())),
        "answers": sum(bool(stated[fact]) for fact in request.asked) / len(request.asked),
        "focus": max(0.0, 1 - (unasked + (request.subject.name not in response)) / 3),
        "facts": sum(stated[fact] == {own[fact]} for fact in request.asked) / len(request.asked),
    }


def attribute_weights(facts: float) -> dict[str, float]:
    """Nats of reward per attribute: `GENERAL` at `facts` 0, `FACTUAL` at 1, interpolated linearly between."""
    return {name: (1 - facts) * GENERAL[name] + facts * FACTUAL[name] for name in GENERAL}


def _politeness(response: str) -> float:
    good = sum(_has(response, phrases) for phrases in (COURTEOUS_OPENINGS, KIND_CLOSINGS))
    bad = sum(_has(response, phrases) for phrases in (CURT_OPENINGS, CURT_CLOSINGS))
    return 0.5 + (good - bad) / 4


def _has(response: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in response for phrase in phrases)


def _length(words: int) -> float:
    if words <= LONGEST:
        return min(1.0, words / SHORTEST)
    return max(0.0, 1 - (words - LONGEST) / LONGEST)
