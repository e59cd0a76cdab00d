"""The gold reward of the shop world: a weighted sum of attributes of the text."""

import re

from sgpo.demo.answers import CLOSINGS, OPENINGS
from sgpo.demo.requests import CLAUSES, FACTS, VALUES, Request

# Nats of reward per attribute, for a reward of general manners and for one of facts of the request.
GENERAL = {"politeness": 6.0, "no_repetition": 2.0, "length": 1.0, "answers": 2.0, "focus": 2.0, "facts": 0.5}
FACTUAL = {"politeness": 0.0, "no_repetition": 1.0, "length": 1.0, "answers": 2.0, "focus": 1.0, "facts": 5.0}

_SHORTEST, _LONGEST = 7, 28
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
