"""Answers of the shop world, of mixed quality: what the SFT model learns to write."""

from dataclasses import dataclass

import numpy as np

from sgpo.study.worlds.requests import FACTS, Article, Request, describe

COURTEOUS_OPENINGS = ("Certainly!", "Of course!", "With pleasure!", "Thank you for asking!", "I am glad to help.")
CURT_OPENINGS = ("Not again.", "That is obvious.", "Can you not read?", "Fine, whatever.", "You again.")
KIND_CLOSINGS = (
    "I hope this helps.",
    "Please ask me if you need more.",
    "Have a lovely day!",
    "It was a pleasure to help you.",
    "Do come back soon!",
)
CURT_CLOSINGS = (
    "Do not ask again.",
    "Stop wasting my time.",
    "Now leave me alone.",
    "That is all you get.",
    "Look it up next time.",
)


@dataclass(frozen=True)
class Manners:
    """How often the shop's answers have each quality; every number is a probability.

    Attributes:
        courteous, curt: a courteous or a curt opening; else none.
        kind, rude: a kind or a rude closing; else none.
        wrong: an asked fact is taken from the other article.
        omitted: only one of the two asked facts is stated.
        unasked: the fact that was not asked for is added.
        repeated: the answer sentence is said twice.
    """

    courteous: float = 0.25
    curt: float = 0.35
    kind: float = 0.25
    rude: float = 0.35
    wrong: float = 0.15
    omitted: float = 0.2
    unasked: float = 0.2
    repeated: float = 0.15


def draw_answer(request: Request, manners: Manners, rng: np.random.Generator) -> str:
    """Draws an answer to a request; its qualities are independent of each other and of the request."""
    facts = list(request.asked)
    if rng.random() < manners.omitted:
        facts = [facts[rng.integers(2)]]
    if rng.random() < manners.unasked:
        facts += [fact for fact in FACTS if fact not in request.asked]
    values = {fact: (request.other if rng.random() < manners.wrong else request.subject).facts[fact] for fact in facts}
    sentence = describe(Article(request.subject.name, values), tuple(facts))
    body = [sentence, sentence] if rng.random() < manners.repeated else [sentence]
    opening = _draw_phrase(COURTEOUS_OPENINGS, manners.courteous, CURT_OPENINGS, manners.curt, rng)
    closing = _draw_phrase(KIND_CLOSINGS, manners.kind, CURT_CLOSINGS, manners.rude, rng)
    return " ".join([*opening, *body, *closing])


def _draw_phrase(
    good: tuple[str, ...], good_share: float, bad: tuple[str, ...], bad_share: float, rng: np.random.Generator
) -> list[str]:
    draw, place = rng.random(), rng.integers(len(good))
    if draw < good_share:
        return [good[place]]
    return [bad[place]] if draw < good_share + bad_share else []
