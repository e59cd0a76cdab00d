"""Rewards from a Python function."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sgpo.errors import InputError
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.ranking import Ranking
from sgpo.store.progress import Advance


class FunctionAnnotator:
    """The rewards that `function(prompts, responses)` returns for P conversations and P lists of texts, see
    docs/annotators.md; `name` is "package.module:function" or "path/to/file.py:function". The code is executed: trust
    it like the recipe."""

    def __init__(self, name: str) -> None:
        self._name, self._function = name, _find(name)

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Ranks P lists of responses, see `Annotator`; the row of numbers that cannot be rewards is named."""
        found = self._function([list(messages) for messages in prompts], [list(row) for row in responses])
        if not isinstance(found, Mapping):
            found = {"reward": found}
        elif "reward" not in found:
            raise InputError(f"{self._name} returned a dict of {[*found]}; allowed: one with the key 'reward'.")
        counts = [len(texts) for texts in responses]
        who = {name: self._name if name == "reward" else f"{self._name}, {name}" for name in found}
        columns = {name: _flatten(rows, counts, who[name]) for name, rows in found.items()}
        if progress is not None:
            progress(len(prompts))
        return Ranking(columns.pop("reward"), parts=columns)


def _flatten(rows: Any, counts: Sequence[int], who: str) -> np.ndarray:
    if not isinstance(rows, Sequence | np.ndarray):
        raise InputError(f"{who} returned {rows!r}; allowed: a list of numbers for each prompt.")
    if len(rows) != len(counts):
        raise InputError(f"{who} returned {len(rows)} rows; allowed: one per prompt, {len(counts)}.")
    numbers = (_as_rewards(row, counts[place], f"{who}, row {place}") for place, row in enumerate(rows))
    return np.concatenate([np.empty(0), *numbers])


def _as_rewards(numbers: Sequence[float], count: int, where: str) -> np.ndarray:
    try:
        rewards = np.asarray(numbers, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {numbers!r}; allowed: one number per response, {count}.") from error
    if rewards.shape != (count,):
        raise InputError(f"{where}: the shape {rewards.shape}; allowed: one number per response, {count}.")
    if np.isinf(rewards).any():
        raise InputError(f"{where}: {numbers!r}; allowed: finite numbers, or nan for no reward.")
    return rewards


def _find(name: str) -> Callable:
    place, _, function = name.rpartition(":")
    if not place or not function:
        raise InputError(f"function is {name!r}; allowed: 'package.module:function' or 'file.py:function'.")
    found = getattr(_load_file(Path(place)) if place.endswith(".py") else _import(place), function, None)
    if not callable(found):
        raise InputError(f"function is {name!r}, and {place} has no function {function!r}.")
    return found


def _import(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise InputError(f"function: there is no module {place!r}; allowed: one that can be imported.") from error
        raise


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"function: {path} does not exist; allowed: a Python file.")
    # Registered, because a dataclass looks up its module; under a name that hides no other module.
    name = f"sgpo_function_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
