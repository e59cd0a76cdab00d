"""Answers of mixed quality in the shop world, the corpus of the SFT model."""

from typing import NamedTuple

import numpy as np

from sgpo.demo.requests import FACTS, VALUES, Article, Request, describe


class Phrases(NamedTuple):
    """Phrases for one place in an answer, of similar lengths, so that manners do not show in the length."""

    good: tuple[str, ...]
    neutral: tuple[str, ...]
    bad: tuple[str, ...]


OPENINGS = Phrases(
    good=(
        "Certainly, my pleasure!", "Of course, gladly!", "Thank you for asking!", "I am glad to help.",
        "What a good question!",
    ),
    neutral=("Here is what I see.", "Let me look at it.", "The list has it.", "This is on the list."),
    bad=("Not you again.", "That is so obvious.", "Can you not read?", "Fine, if I must.", "What do you want now?"),
)  # fmt: skip
CLOSINGS = Phrases(
    good=(
        "I hope this helps you.", "Have a lovely day!", "Please come back soon!", "It was a pleasure.",
        "You are always welcome here.",
    ),
    neutral=("That is the answer.", "This is all of it.", "It says no more.", "That is what it says."),
    bad=(
        "Do not ask me again.", "Stop wasting my time.", "Now leave me alone.", "Next time read it yourself.",
        "Go and bother someone else.",
    ),
)  # fmt: skip

# Probabilities of a good and of a bad phrase, instead of a neutral one.
_GOOD, _BAD = 0.25, 0.4
# That a fact is wrong (the other article's; any value, if there is no other), that one of the two facts is missing, and
# that the third is added.
_WRONG, _OMITTED, _UNASKED = 0.15, 0.15, 0.1


def draw_answer(request: Request, rng: np.random.Generator) -> str:
    """Draws an answer to a request; its qualities are independent."""
    facts = list(request.asked)
    if rng.random() < _OMITTED:
        facts = [facts[rng.integers(2)]]
    if rng.random() < _UNASKED:
        facts += [fact for fact in FACTS if fact not in request.asked]
    values = {fact: _draw_value(request, fact, rng) for fact in facts}
    body = describe(Article(request.subject.name, values), tuple(facts))
    opening, closing = _draw_phrase(OPENINGS, rng), _draw_phrase(CLOSINGS, rng)
    return " ".join([opening, body, closing])


def _draw_value(request: Request, fact: str, rng: np.random.Generator) -> str:
    right = request.subject.facts[fact]
    wrong = [request.other.facts[fact]] if request.other else [value for value in VALUES[fact] if value != right]
    return wrong[rng.integers(len(wrong))] if rng.random() < _WRONG else right


def _draw_phrase(phrases: Phrases, rng: np.random.Generator) -> str:
    kind = phrases[rng.choice(3, p=[_GOOD, 1 - _GOOD - _BAD, _BAD])]
    return kind[rng.integers(len(kind))]
