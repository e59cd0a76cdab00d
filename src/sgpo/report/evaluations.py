"""What a recipe's `evaluate` measured: one number a round and evaluation, with its interval."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from sgpo.errors import InputError

_NUMBERS = ("value", "low", "high", "count")


class _Kind(NamedTuple):
    quantity: str
    chance: str
    counted: str
    meaning: str
    claims: dict[str, str]


_WIN = {
    "higher": "{} wins more often than not in {}",
    "lower": "{} loses more often than not in {}",
    "no clear difference": "no clear difference between {} and what it is compared with in {}",
}
_ORDER = {
    "higher": "{} orders the pairs of {} better than chance",
    "lower": "{} orders the pairs of {} worse than chance",
    "no clear difference": "no clear difference between {} and chance on the pairs of {}",
}
_KINDS = {
    "judge": _Kind("win rate", "even", "prompts", "share of prompts that the judge gives to it", _WIN),
    "reward": _Kind("win rate", "even", "prompts", "share of prompts that the reward gives to it", _WIN),
    "preferences": _Kind("accuracy", "chance", "pairs", "share of human pairs that it orders right", _ORDER),
}


class Measured(NamedTuple):
    """An evaluation that some round has a number of.

    Attributes:
        name: in the recipe; key: dotted, of its number in a round's metrics.
        quantity, chance, counted, meaning: what the number is, what 1/2 stands for, over what it is taken, and a
            sentence.
        claims: by result of a comparison with 1/2, a sentence about "{}", the round.
    """

    name: str
    key: str
    quantity: str
    chance: str
    counted: str
    meaning: str
    claims: dict[str, str]


def read_evaluations(metrics: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """The evaluations of a round as blocks of their own, "evaluation NAME".

    Raises:
        InputError: one that is no object, or that holds something other than numbers and null.
    """
    content = metrics.get("evaluations") or {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: evaluations is {content!r}; allowed: an object.")
    for name, block in content.items():
        if not isinstance(block, dict) or "." in name:
            raise InputError(f"{path}: evaluations.{name} is {block!r}; allowed: an object, and a name without a dot.")
        for key in _NUMBERS:
            value = block.get(key)
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not is_number:
                raise InputError(f"{path}: evaluations.{name}.{key} is {value!r}; allowed: a finite number or null.")
    return {f"evaluation {name}": block for name, block in content.items()}


def find_measured(rounds: list[dict[str, Any]]) -> list[Measured]:
    """The evaluations with a number in some round, in the recipe's order; kinds that only write files have none."""
    kinds: dict[str, str] = {}
    for metrics in rounds:
        for name, block in (metrics.get("evaluations") or {}).items():
            if block.get("value") is not None and block.get("kind") in _KINDS:
                kinds.setdefault(name, block["kind"])
    return [_measured(name, _KINDS[kind]) for name, kind in kinds.items()]


def _measured(name: str, kind: _Kind) -> Measured:
    claims = {
        result: claim.format("{}", name.replace("{", "{{").replace("}", "}}")) for result, claim in kind.claims.items()
    }
    return Measured(
        name, f"evaluation {name}.value", kind.quantity, kind.chance, kind.counted, f"{kind.meaning} ({name})", claims
    )
