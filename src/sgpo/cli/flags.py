"""Command-line flags generated from a section of the recipe: name, type, choices, default and help."""

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from sgpo.config import Section, validate
from sgpo.config.options import RewardOptions
from sgpo.errors import InputError

_METAVARS = {int: "N", float: "X"}
_PATHS = ("instructions", "questions", "prompts", "pairs", "baseline", "template")
# What the flags of keys begin with whose own name another flag has.
_PREFIXES = {"GenerationConfig.servers": "policy-", "JudgeOptions.temperature": "judge-", "JudgeOptions.seed": "judge-"}
_PREFIXES |= {f"RewardOptions.{name}": "reward-" for name in RewardOptions.model_fields if name != "label"}
_Section = TypeVar("_Section", bound=Section)


def add_flags(
    parser: Any, section: type[Section], names: Iterable[str], aliases: Mapping[str, Iterable[str]] | None = None
) -> None:
    """Adds a flag for each of some keys of a section to a parser or a group; `aliases` are older flags, not shown."""
    for name in names:
        field = section.model_fields[name]
        key = f"{section.__name__}.{name}"
        options = {"dest": key, "default": argparse.SUPPRESS, **_options(field.annotation, name)}
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        empty = default is None or default is False or default in ([], {}) or isinstance(default, Section)
        shown = "" if empty else f" Default: {default}."
        parser.add_argument(flag_of(key), help=f"{field.description}{shown}".replace("%", "%%"), **options)
        for alias in (aliases or {}).get(name, ()):
            parser.add_argument(alias, help=argparse.SUPPRESS, **options)


def flag_of(key: str) -> str:
    """The flag of a key, such as `JudgeOptions.seed`."""
    return f"--{_PREFIXES.get(key, '')}{key.rpartition('.')[2].replace('_', '-')}"


def build(arguments: argparse.Namespace, section: type[_Section], **others: Any) -> _Section:
    """A section from `others` and the flags that are given; an InputError names the flags."""
    flags = given(arguments, section)
    try:
        return validate(section, {**others, **flags}, "arguments")
    except InputError as error:
        message = str(error).replace("arguments: ", "")
        for name in section.model_fields.keys() - (others.keys() - flags.keys()):
            message = re.sub(rf"^{name}\b(\.\d+)*", flag_of(f"{section.__name__}.{name}"), message, flags=re.MULTILINE)
        raise InputError(message) from error


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
    return {"type": kind, "metavar": "PATH" if name in _PATHS else _METAVARS.get(kind, name.upper())}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid JSON") from error
