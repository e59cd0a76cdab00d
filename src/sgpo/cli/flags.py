"""Flags of a command made from a section of the recipe: name, type, choices, default and description are its own."""

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from sgpo.config import Section

_METAVARS = {int: "N", float: "X"}


def add_flags(
    parser: Any,
    section: type[Section],
    names: Iterable[str],
    *,
    renamed: Mapping[str, str] | None = None,
    aliases: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """Adds a flag for each of some keys of a section to a parser or a group; `given` reads them.

    `renamed` holds the flags of keys whose own name another flag has; `aliases` older flags, which are not shown.
    """
    for name in names:
        field = section.model_fields[name]
        key = f"{section.__name__}.{name}"
        options = {"dest": key, "default": argparse.SUPPRESS, **_options(field.annotation, name)}
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        empty = default is None or default is False or default in ([], {}) or isinstance(default, Section)
        shown = "" if empty else f" Default: {default}."
        flag = (renamed or {}).get(name, f"--{name.replace('_', '-')}")
        parser.add_argument(flag, help=f"{field.description}{shown}".replace("%", "%%"), **options)
        for alias in (aliases or {}).get(name, ()):
            parser.add_argument(alias, help=argparse.SUPPRESS, **options)


def given(arguments: argparse.Namespace, section: type[Section]) -> dict[str, Any]:
    """The keys of a section whose flags are given."""
    prefix = f"{section.__name__}."
    return {key.removeprefix(prefix): value for key, value in vars(arguments).items() if key.startswith(prefix)}


def _options(annotation: Any, name: str) -> dict[str, Any]:
    while get_origin(annotation) is Annotated or type(None) in get_args(annotation):
        annotation = get_args(annotation)[0]
    kind, parts = get_origin(annotation) or annotation, get_args(annotation)
    if kind is bool:
        return {"action": "store_true"}
    if kind is Literal:
        return {"choices": list(parts)}
    if kind in (list, tuple):
        return {**_options(parts[0], name.removesuffix("s")), "nargs": "+" if kind is list else len(parts)}
    if kind is dict or issubclass(kind, Section):
        return {"type": _json, "metavar": "JSON"}
    return {"type": kind, "metavar": _METAVARS.get(kind, name.upper())}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid JSON") from error
