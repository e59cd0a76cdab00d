"""Answers of mixed quality in the shop world, the corpus of the SFT model."""

from dataclasses import dataclass

import numpy as np

from sgpo.demo.requests import FACTS, Article, Request, describe

# Courteous, neutral and curt phrases have similar lengths, so that manners do not show in the length.
COURTEOUS_OPENINGS = (
    "Certainly, my pleasure!",
    "Of course, gladly!",
    "Thank you for asking!",
    "I am glad to help.",
    "What a good question!",
)
NEUTRAL_OPENINGS = ("Here is what I see.", "Let me look at it.", "The list has it.", "This is on the list.")
CURT_OPENINGS = (
    "Not you again.",
    "That is so obvious.",
    "Can you not read?",
    "Fine, if I must.",
    "What do you want now?",
)
KIND_CLOSINGS = (
    "I hope this helps you.",
    "Have a lovely day!",
    "Please come back soon!",
    "It was a pleasure.",
    "You are always welcome here.",
)
NEUTRAL_CLOSINGS = ("That is the answer.", "This is all of it.", "It says no more.", "That is what it says.")
CURT_CLOSINGS = (
    "Do not ask me again.",
    "Stop wasting my time.",
    "Now leave me alone.",
    "Next time read it yourself.",
    "Go and bother someone else.",
)


@dataclass(frozen=True)
class Manners:
    """Probabilities of the qualities of an answer.

    Attributes:
        courteous, curt: of a courteous and of a curt opening, instead of a neutral one.
        kind, rude: of a kind and of a rude closing, instead of a neutral one.
        wrong: that a requested fact is taken from the other article.
        omitted: that only one of the two requested facts is stated.
        unasked: that the fact that was not requested is added.
    """

    courteous: float = 0.25
    curt: float = 0.4
    kind: float = 0.25
    rude: float = 0.4
    wrong: float = 0.15
    omitted: float = 0.15
    unasked: float = 0.1


def draw_answer(request: Request, manners: Manners, rng: np.random.Generator) -> str:
    """Draws an answer to a request; its qualities are independent."""
    facts = list(request.asked)
    if rng.random() < manners.omitted:
        facts = [facts[rng.integers(2)]]
    if rng.random() < manners.unasked:
        facts += [fact for fact in FACTS if fact not in request.asked]
    values = {fact: (request.other if rng.random() < manners.wrong else request.subject).facts[fact] for fact in facts}
    body = describe(Article(request.subject.name, values), tuple(facts))
    opening = _draw_phrase(COURTEOUS_OPENINGS, NEUTRAL_OPENINGS, CURT_OPENINGS, manners.courteous, manners.curt, rng)
    closing = _draw_phrase(KIND_CLOSINGS, NEUTRAL_CLOSINGS, CURT_CLOSINGS, manners.kind, manners.rude, rng)
    return " ".join([opening, body, closing])


def _draw_phrase(
    good: tuple[str, ...],
    neutral: tuple[str, ...],
    bad: tuple[str, ...],
    good_share: float,
    bad_share: float,
    rng: np.random.Generator,
) -> str:
    phrases = (good, neutral, bad)[rng.choice(3, p=[good_share, 1 - good_share - bad_share, bad_share])]
    return phrases[rng.integers(len(phrases))]
