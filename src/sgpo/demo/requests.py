"""Requests of the shop world: one or two articles with three facts each, and a question about two facts of one."""

import re
from dataclasses import dataclass

import numpy as np

from sgpo.errors import InputError

FACTS = ("colour", "origin", "price")
CLAUSES = {"colour": "is {}", "origin": "comes from {}", "price": "costs {} dollars"}

VALUES = {
    "colour": (
        "red", "blue", "green", "yellow", "black", "white", "brown", "grey", "pink", "purple", "orange", "silver",
    ),
    "origin": (
        "Oslo", "Rome", "Paris", "Lima", "Cairo", "Delhi", "Kyoto", "Quito", "Perth", "Dublin", "Vienna", "Prague",
    ),
    "price": ("10", "15", "20", "25", "30", "35", "40", "45", "50", "60", "70", "80"),
}  # fmt: skip

MAKERS = (
    "Adams", "Baker", "Carter", "Dalton", "Ellis", "Fisher", "Grant", "Harper", "Irving", "Jordan", "Keller", "Larkin",
    "Morris", "Norton", "Osborn", "Parker", "Quinn", "Ramsey", "Sutton", "Turner", "Upton", "Vaughn", "Walker", "Young",
)  # fmt: skip
KINDS = ("lamp", "chair", "table", "clock", "kettle", "basket", "mirror", "blanket", "vase", "radio", "bag", "desk")

QUESTIONS = (
    "What are the {} and the {} of the {}?",
    "Please tell me the {} and the {} of the {}.",
    "I would like to know the {} and the {} of the {}.",
    "Can you tell me the {} and the {} of the {}?",
)


@dataclass(frozen=True)
class Article:
    """An article of the shop: its name and one value for each of FACTS."""

    name: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Request:
    """A request: its text, the article that it is about, perhaps another one, and the two of FACTS that it asks for."""

    text: str
    subject: Article
    other: Article | None
    asked: tuple[str, str]


def describe(article: Article, facts: tuple[str, ...]) -> str:
    """One sentence that states one or more facts of an article, in the given order."""
    clauses = [CLAUSES[fact].format(article.facts[fact]) for fact in facts]
    listed = clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"
    return f"The {article.name} {listed}."


def draw_request(rng: np.random.Generator, distractor: bool = True) -> Request:
    """Draws a request about an article that is listed alone, or with another of its kind that shares no fact."""
    kind = KINDS[rng.integers(len(KINDS))]
    makers = rng.choice(len(MAKERS), size=2, replace=False)
    values = {fact: rng.choice(len(VALUES[fact]), size=2, replace=False) for fact in FACTS}
    drawn = [
        Article(f"{MAKERS[maker]} {kind}", {fact: VALUES[fact][values[fact][place]] for fact in FACTS})
        for place, maker in enumerate(makers)
    ]
    chosen = int(rng.integers(2))
    subject, other = drawn[chosen], drawn[1 - chosen] if distractor else None
    listed = [f"{one.name}: {', '.join(one.facts.values())} dollars." for one in drawn if one in (subject, other)]
    asked = tuple(FACTS[place] for place in rng.choice(len(FACTS), size=2, replace=False))
    question = QUESTIONS[rng.integers(len(QUESTIONS))].format(*asked, subject.name)
    return Request(" ".join([*listed, question]), subject, other, asked)


_ARTICLE = re.compile(r"(\w+ \w+): (\w+), (\w+), (\w+) dollars\.")
_QUESTION = re.compile(rf"the ({'|'.join(FACTS)}) and the ({'|'.join(FACTS)}) of the (\w+ \w+)[?.]$")


def parse_request(text: str) -> Request:
    """The request with this text; raises InputError if it is none of this world."""
    articles = {name: Article(name, dict(zip(FACTS, values, strict=True))) for name, *values in _ARTICLE.findall(text)}
    question = _QUESTION.search(text)
    if len(articles) not in (1, 2) or question is None or question[3] not in articles:
        raise InputError(f"request {text!r}; allowed: articles and a question, as `draw_request` words them.")
    subject = articles.pop(question[3])
    return Request(text, subject, next(iter(articles.values()), None), (question[1], question[2]))
