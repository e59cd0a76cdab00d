"""Constraints on a response that the checkers of IFEval and IFBench decide, in natural wording."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

Group = Literal["seeds", "pools", "test"]
Kwargs = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A base request, its topic, and words that an answer is likely to hold, the likeliest first."""

    text: str
    topic: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Constraint:
    """A type of constraint.

    Attributes:
        name: ours.
        instruction: its id in IFEval or IFBench.
        group: "seeds": in every file; "pools": in pools and test alone; "test": in the test alone.
        wordings: format strings of the checker's arguments.
        draw: the arguments, for a request.
        aspects: of a response; constraints on the same one may contradict each other. "length": it says how long the
            response is to be.
    """

    name: str
    instruction: str
    group: Group
    wordings: tuple[str, ...]
    draw: Callable[[Request, np.random.Generator], Kwargs]
    aspects: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Drawn:
    """A constraint with its arguments, and its sentence in the prompt."""

    constraint: Constraint
    kwargs: Kwargs
    text: str


def draw_constraint(constraint: Constraint, request: Request, rng: np.random.Generator) -> Drawn:
    """Draws the arguments and the wording of a constraint."""
    kwargs = constraint.draw(request, rng)
    wording = constraint.wordings[rng.integers(len(constraint.wordings))]
    return Drawn(constraint, kwargs, wording.format(**_spoken(kwargs)))


def conflicts(first: Constraint, second: Constraint) -> bool:
    """Whether a prompt must not have both: by IFEval's table, or because both are about one aspect of a response."""
    pair = frozenset((first.instruction, second.instruction))
    return len(pair) == 1 or bool(first.aspects & second.aspects) or pair in _ifeval_conflicts()


@cache
def _ifeval_conflicts() -> set[frozenset[str]]:
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_CONFLICTS

    return {frozenset((name, other)) for name, others in INSTRUCTION_CONFLICTS.items() for other in others}


def _spoken(kwargs: Kwargs) -> Kwargs:
    return {
        name: " and ".join(f'"{word}"' for word in value) if isinstance(value, list) else value
        for name, value in kwargs.items()
    }


def _one_of(**options: tuple[Any, ...] | Any) -> Callable[[Request, np.random.Generator], Kwargs]:
    """Draws each argument from a tuple; another value is the argument itself."""

    def draw(request: Request, rng: np.random.Generator) -> Kwargs:
        return {
            name: value[rng.integers(len(value))] if isinstance(value, tuple) else value
            for name, value in options.items()
        }

    return draw


CONSTRAINTS: tuple[Constraint, ...] = (
    Constraint(
        "few_words", "length_constraints:number_words", "seeds",
        ("Use fewer than {num_words} words.", "Your answer must have less than {num_words} words.",
         "Stay under {num_words} words."),
        _one_of(relation="less than", num_words=(15, 20, 25)),
        frozenset({"length"}),
    ),
    Constraint(
        "one_sentence", "length_constraints:number_sentences", "seeds",
        ("Answer in a single sentence.", "Use only one sentence.", "Your answer must be one sentence."),
        _one_of(relation="less than", num_sentences=2),
        frozenset({"length", "sentences"}),
    ),
    Constraint(
        "title", "detectable_format:title", "seeds",
        ("Give your answer a title, wrapped in double angle brackets, such as <<my title>>.",
         "Begin with a title in double angle brackets, like <<title>>."),
        _one_of(),
        frozenset({"start"}),
    ),
    Constraint(
        "bullets", "detectable_format:number_bullet_lists", "seeds",
        ("Answer with exactly {num_bullets} bullet points, each on a line that begins with *.",
         "Write a list of exactly {num_bullets} markdown bullet points that begin with * or -."),
        _one_of(num_bullets=(2, 3, 4)),
        frozenset({"length", "sentences", "start"}),
    ),
    Constraint(
        "no_comma", "punctuation:no_comma", "seeds",
        ("Do not use any commas.", "Your answer must not contain a comma.", "Write without commas."),
        _one_of(),
    ),
    Constraint(
        "keyword", "keywords:existence", "seeds",
        ("Include the word {keywords}.", "Use the word {keywords} in your answer.", "Mention the word {keywords}."),
        lambda request, rng: {"keywords": [request.words[int(rng.integers(3))]]},
        frozenset({"words"}),
    ),
    Constraint(
        "keyword_often", "keywords:frequency", "seeds",
        ('Use the word "{keyword}" at least {frequency} times.', 'Say "{keyword}" {frequency} times or more.'),
        lambda request, rng: {"keyword": request.words[0], "frequency": 2, "relation": "at least"},
        frozenset({"words"}),
    ),
    Constraint(
        "forbidden", "keywords:forbidden_words", "seeds",
        ("Do not use the word {forbidden_words}.", "Avoid the word {forbidden_words}.",
         "Your answer must not contain the word {forbidden_words}."),
        lambda request, rng: {"forbidden_words": [request.words[0]]},
        frozenset({"words"}),
    ),
    Constraint(
        "letter", "keywords:letter_frequency", "seeds",
        ('The letter "{letter}" should appear at least {let_frequency} times.',
         'Use the letter "{letter}" {let_frequency} times or more.'),
        _one_of(letter=("b", "f", "k", "m", "p", "v", "w"), let_relation="at least", let_frequency=(2, 3, 4)),
    ),
    Constraint(
        "highlights", "detectable_format:number_highlighted_sections", "seeds",
        ("Highlight at least {num_highlights} of your words with markdown, such as *highlighted*.",
         "Put {num_highlights} or more words between asterisks, *like this*."),
        _one_of(num_highlights=(1, 2)),
    ),
    Constraint(
        "two_keywords", "keywords:existence", "pools",
        ("Include the words {keywords}.", "Use the words {keywords} in your answer."),
        lambda request, rng: {"keywords": list(request.words[:2])},
        frozenset({"words"}),
    ),
    Constraint(
        "keyword_place", "sentence:keyword", "pools",
        ('Use the word "{word}" in sentence {N}.', 'Sentence number {N} must contain the word "{word}".'),
        lambda request, rng: {"word": request.words[int(rng.integers(3))], "N": int(rng.integers(1, 3))},
        frozenset({"sentences", "words"}),
    ),
    Constraint(
        "postscript", "detectable_content:postscript", "pools",
        ("At the end, add a postscript that starts with {postscript_marker}",
         "Finish with a postscript that begins with {postscript_marker}"),
        _one_of(postscript_marker="P.S."),
        frozenset({"sentences", "end"}),
    ),
    Constraint(
        "placeholders", "detectable_content:number_placeholders", "pools",
        ("Leave at least {num_placeholders} of the details open, as placeholders like [name].",
         "Use {num_placeholders} or more placeholders in square brackets, like [place]."),
        _one_of(num_placeholders=(1, 2)),
    ),
    Constraint(
        "pronouns", "count:pronouns", "test",
        ("Use at least {N} pronouns, such as I, you, it or they.", "Include {N} or more pronouns, like it, we or she."),
        _one_of(N=(3, 4)),
    ),
    Constraint(
        "numbers", "count:numbers", "test",
        ("Include exactly {N} numbers, written in digits.", "Use exactly {N} numbers such as 7 or 12."),
        _one_of(N=(2, 3)),
    ),
    Constraint(
        "ending", "startend:end_checker", "test",
        ('End your answer with the exact words "{end_phrase}"', 'The last words must be "{end_phrase}"'),
        _one_of(end_phrase=("That is all.", "Good luck!", "I hope this helps.", "Have a nice day!")),
        frozenset({"sentences", "end"}),
    ),
    Constraint(
        "quotation", "startend:quotation", "test",
        ("Wrap your whole answer in double quotation marks.", "Put the entire answer between double quotation marks."),
        _one_of(),
        frozenset({"start", "end"}),
    ),
    Constraint(
        "lowercase", "change_case:english_lowercase", "test",
        ("Write in lowercase letters only.", "Use no capital letters at all."),
        _one_of(),
    ),
)  # fmt: skip
