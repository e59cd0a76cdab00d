"""Flags of a command made from a section of the recipe: name, type, choices, default and description are its own."""

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from sgpo.config import Section

_METAVARS = {int: "N", float: "X", str: None, dict: "JSON"}


def add_flags(
    parser: Any,
    section: type[Section],
    names: Iterable[str],
    *,
    renamed: Mapping[str, str] | None = None,
    aliases: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """Adds a flag for each of some keys of a section; `given` reads them.

    Args:
        parser: the parser, or a group of its arguments.
        section: the section.
        names: keys of the section.
        renamed: flags for keys whose own name another flag has.
        aliases: older flags of a key, which work and are not shown.
    """
    for name in names:
        field = section.model_fields[name]
        options = {"dest": f"{section.__name__}.{name}", "default": argparse.SUPPRESS, **_options(field.annotation)}
        if "metavar" in options:
            options["metavar"] = options["metavar"] or name.upper()
        default = field.get_default(call_default_factory=True)
        shown = "" if default is None or default is False or default in ([], {}) else f" Default: {default}."
        flag = (renamed or {}).get(name, f"--{name.replace('_', '-')}")
        parser.add_argument(flag, help=f"{field.description}{shown}".replace("%", "%%"), **options)
        for alias in (aliases or {}).get(name, ()):
            parser.add_argument(alias, help=argparse.SUPPRESS, **options)


def given(arguments: argparse.Namespace, section: type[Section]) -> dict[str, Any]:
    """The keys of a section whose flags are given."""
    prefix = f"{section.__name__}."
    return {key.removeprefix(prefix): value for key, value in vars(arguments).items() if key.startswith(prefix)}


def _options(annotation: Any) -> dict[str, Any]:
    while get_origin(annotation) is Annotated or type(None) in get_args(annotation):
        annotation = get_args(annotation)[0]
    if annotation is bool:
        return {"action": "store_true"}
    if get_origin(annotation) is Literal:
        return {"choices": list(get_args(annotation))}
    if get_origin(annotation) is list:
        return {"nargs": "+", "metavar": "URL"}
    kind = get_origin(annotation) or annotation
    return {"type": _json_object if kind is dict else kind, "metavar": _METAVARS[kind]}


def _json_object(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid JSON") from error
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a JSON object")
    return fields
