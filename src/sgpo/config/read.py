"""Reads the content of a recipe from a YAML file and overrides, without validating it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgpo.errors import InputError
from sgpo.store.files import parse_yaml, read_yaml

_SOURCES = (
    "model.path", "model.adapter", "data.seeds", "data.prompts", "data.heldout", "data.split.sources.path",
    "annotation.model", "evaluate.instructions", "evaluate.prompts", "evaluate.pairs", "evaluate.baseline",
    "evaluate.model",
)  # fmt: skip


def read_recipe(path: str | Path, overrides: list[str]) -> dict[str, Any]:
    """Reads a YAML recipe and applies dotted overrides, such as `follower.radius=0.05`. InputError: no such file, no
    YAML mapping, or an override that is not KEY=VALUE or goes into a value."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; allowed: a mapping of keys to values.")
    for override in overrides:
        _apply_override(content, override)
    return content


def _apply_override(content: dict[str, Any], override: str) -> None:
    dotted, sign, text = override.partition("=")
    *parents, key = dotted.split(".")
    if not sign or not all([*parents, key]):
        raise InputError(f"override {override!r}; allowed: KEY=VALUE with a dotted key, such as follower.radius=0.05.")
    for parent in parents:
        if content.get(parent) is None:
            content[parent] = {}
        content = content[parent]
        if not isinstance(content, dict):
            raise InputError(f"override {override!r}: {parent} holds a {type(content).__name__}, not keys.")
    content[key] = parse_yaml(text, f"override {override!r}")


def named_sources(content: dict[str, Any]) -> list[str]:
    """The models and datasets that a recipe names, before it is validated."""
    return [text for key in _SOURCES for text in _texts_at(content, key.split("."))]


def _texts_at(node: Any, keys: list[str]) -> Iterator[str]:
    """The texts at a place of a recipe, in every item of a list on the way."""
    if isinstance(node, list):
        for item in node:
            yield from _texts_at(item, keys)
    elif not keys and isinstance(node, str):
        yield node
    # A judge's model is a name on its server.
    elif isinstance(node, dict) and (keys != ["model"] or "judge" not in (node.get("annotator"), node.get("kind"))):
        yield from _texts_at(node.get(keys[0]) if keys else None, keys[1:])
