"""Prompts with a truth that a program can check: a base request and one or two constraints, in IFEval's layout."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar

import numpy as np

from sgpo.evaluate import ifeval
from sgpo_research.worlds.constraints import CONSTRAINTS, Constraint, Drawn, Request, conflicts, draw_constraint

Part = Literal["seeds", "heldout", "pool", "test"]
_Item = TypeVar("_Item")

# Of the thirty requests of a topic.
_SHARES: dict[Part, int] = {"seeds": 10, "heldout": 4, "pool": 10, "test": 6}
_SECOND = 0.5  # share of the prompts with a second constraint
_BRIEF = (
    "Answer in one or two sentences.",
    "Use two sentences at most.",
    "One or two sentences are enough.",
    "Keep it to two short sentences.",
)


@dataclass(frozen=True)
class Prompt:
    """A prompt: its number, its request, and its constraints."""

    key: int
    text: str
    request: Request
    constraints: tuple[Drawn, ...]

    @property
    def checkable(self) -> ifeval.Request:
        """What the checkers read."""
        names = [drawn.constraint.instruction for drawn in self.constraints]
        return ifeval.Request(self.key, self.text, names, [drawn.kwargs for drawn in self.constraints])

    @property
    def row(self) -> dict[str, Any]:
        """Its columns in a file: those of IFEval, and types, topic and request."""
        return {
            "key": self.key,
            "prompt": self.text,
            "instruction_id_list": self.checkable.instructions,
            "kwargs": self.checkable.kwargs,
            "types": [drawn.constraint.name for drawn in self.constraints],
            "topic": self.request.topic,
            "request": self.request.text,
        }


@cache
def read_requests() -> tuple[Request, ...]:
    """The base requests, topic by topic."""
    found, topic = [], ""
    for line in files("sgpo_research.worlds").joinpath("requests.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            topic = line.removeprefix("# ")
        else:
            text, _, words = line.partition(" | ")
            found.append(Request(text, topic, tuple(words.split(", "))))
    return tuple(found)


@cache
def split_requests() -> dict[Part, tuple[Request, ...]]:
    """The requests of each part, no request in two; every topic is in every part. The split is the same everywhere."""
    by_topic: dict[str, list[Request]] = {}
    for request in read_requests():
        by_topic.setdefault(request.topic, []).append(request)
    parts: dict[Part, list[Request]] = {part: [] for part in _SHARES}
    rng = np.random.default_rng(0)
    for requests in by_topic.values():
        order, start = rng.permutation(len(requests)), 0
        for part, share in _SHARES.items():
            parts[part] += [requests[row] for row in order[start : start + share]]
            start += share
    return {part: tuple(requests) for part, requests in parts.items()}


def constraints_of(*groups: str) -> tuple[Constraint, ...]:
    """The types of constraints of some groups."""
    return tuple(constraint for constraint in CONSTRAINTS if constraint.group in groups)


def draw_prompts(
    requests: Sequence[Request], constraints: Sequence[Constraint], count: int, *, seed: Sequence[int], first_key: int
) -> list[Prompt]:
    """Draws prompts, no two alike; the first N do not depend on `count`.

    Every request and every type comes equally often, the type as the first constraint of a prompt; half of the prompts
    have a second one, which does not contradict the first. A prompt without a constraint on its length asks for a short
    answer, because a small model would otherwise be cut.
    """
    rng, seen = np.random.default_rng(seed), set()
    ordered, types = _cycle(requests, rng), _cycle(constraints, rng)
    found: list[Prompt] = []
    while len(found) < count:
        request, first = next(ordered), next(types)
        drawn = [draw_constraint(first, request, rng)]
        rest = [one for one in constraints if not conflicts(first, one)]
        if rest and rng.random() < _SECOND:
            drawn.append(draw_constraint(rest[rng.integers(len(rest))], request, rng))
        brief = [] if any("length" in one.constraint.aspects for one in drawn) else [_BRIEF[rng.integers(len(_BRIEF))]]
        text = " ".join([request.text, *brief, *(one.text for one in drawn)])
        if text not in seen:
            seen.add(text)
            found.append(Prompt(first_key + len(found), text, request, tuple(drawn)))
    return found


def _cycle(items: Sequence[_Item], rng: np.random.Generator) -> Iterator[_Item]:
    """All items in a random order, then all in another one, and so on."""
    while True:
        for place in rng.permutation(len(items)):
            yield items[place]
