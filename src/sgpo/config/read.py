"""From a YAML file and overrides to the content of a recipe, not yet validated."""

from pathlib import Path
from typing import Any

import yaml

from sgpo.errors import InputError


def read_recipe(path: str | Path, overrides: list[str]) -> dict[str, Any]:
    """Reads a YAML recipe and lays dotted overrides (`follower.radius=0.05`) over it.

    Raises:
        InputError: no such file, no YAML mapping, or an override that is not KEY=VALUE or that descends into a value.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); allowed: a YAML file.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; allowed: a mapping of keys to values.")
    for override in overrides:
        _apply_override(content, override)
    return content


def named_sources(content: dict[str, Any]) -> list[str]:
    """The models and datasets that a recipe names, before it is validated."""
    wanted = {"model": ("path", "adapter"), "data": ("seeds", "prompts", "heldout"), "annotation": ("model",)}
    found: list[str] = []
    for section, keys in wanted.items():
        values = content.get(section)
        for key in keys if isinstance(values, dict) else ():
            value = values.get(key)
            found += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
    listed = content.get("evaluate")
    for evaluation in listed if isinstance(listed, list) else ():
        keys = ("instructions", "prompts", "pairs", "baseline") if isinstance(evaluation, dict) else ()
        found += [evaluation[key] for key in keys if isinstance(evaluation.get(key), str)]
        if keys and evaluation.get("kind") == "reward" and isinstance(evaluation.get("model"), str):
            found.append(evaluation["model"])
    split = content.get("data", {}).get("split") if isinstance(content.get("data"), dict) else None
    for source in split.get("sources", ()) if isinstance(split, dict) else ():
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            found.append(source["path"])
    return found


def _apply_override(content: dict[str, Any], override: str) -> None:
    dotted, sign, text = override.partition("=")
    if not sign or not all(dotted.split(".")):
        raise InputError(f"override {override!r}; allowed: KEY=VALUE with a dotted key, such as follower.radius=0.05.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"override {override!r}: the value is not valid YAML.") from error
    *parents, key = dotted.split(".")
    node = content
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise InputError(f"override {override!r}: {parent} holds a {type(node).__name__}, not keys.")
    node[key] = value
