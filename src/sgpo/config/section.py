"""Building blocks of a recipe's sections: number types, keys, settings, error messages."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from sgpo.choices import listed
from sgpo.errors import InputError, shorten

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Place = Annotated[str, "a path"]

MAX_FAILED = "Share of requests or items that may fail (filtered, without a verdict, ...) before the job stops."

_Model = TypeVar("_Model", bound=BaseModel)
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
_WORDS |= {type(None): "null", Any: "a value"}
_BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("min_length", "of length >="), ("pattern", "like"))


class Section(BaseModel):
    """A section of a recipe: frozen, with validated defaults; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    def check_keys(self, chooser: str, table: Mapping[str, tuple[set[str], set[str]]]) -> None:
        """Raises ValueError for keys that the value of `chooser` needs and lacks, or has and does not take."""
        choice = getattr(self, chooser)
        needed, taken = table[choice]
        foreign = set().union(*(needs | takes for needs, takes in table.values())) - needed - taken
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in needed and not value:
                raise ValueError(f"{name} is missing; {chooser} {choice!r} needs it")
            if name in foreign and value != field.get_default(call_default_factory=True):
                shown = value.model_dump(exclude_defaults=True) if isinstance(value, Section) else value
                raise ValueError(f"{name} is {shown!r} with {chooser} {choice!r}, which takes none")


def key(default: Any, description: str) -> Any:
    """A key of a section; `...` as default: required."""
    return Field(default, description=description)


def setting(default: Any, description: str) -> Any:
    """A field of a dataclass that Hugging Face's argument parser reads; pydantic's constraints annotate its type."""
    return dataclasses.field(default=default, metadata={"help": description})


def keys_of(settings: type, **changes: tuple[Any, str | None]) -> dict[str, tuple[Any, FieldInfo]]:
    """The settings of a dataclass as keys of a recipe; `changes` are types and descriptions that differ there."""
    hints = get_type_hints(settings, include_extras=True)
    keys = {}
    for field in dataclasses.fields(settings):
        kind, description = changes.get(field.name, (hints[field.name], None))
        keys[field.name] = (kind, Field(field.default, description=description or field.metadata["help"]))
    return keys


def validate(kind: type[_Model], content: dict[str, Any], name: str) -> _Model:
    """Builds a section, or raises one InputError that lists each wrong key in `name`, its value and what is allowed."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        # A key that takes several types has an error for each of them, and one sentence.
        sentences = dict.fromkeys(_sentence(kind, content, item) for item in error.errors())
        raise InputError("\n".join(f"{name}: {sentence}" for sentence in sentences)) from error


def _sentence(kind: type[BaseModel], content: Any, item: Any) -> str:
    key, value, allowed = "", content, kind
    for part in item["loc"]:
        # Below a key without a section of its own, pydantic names its types and the places in its value.
        if (section := find_section(allowed)) is None:
            break
        key = f"{key}.{part}" if key else part
        allowed = section
        if isinstance(part, str):
            if part not in section.model_fields:
                return f"unknown key {key}; allowed: {', '.join(section.model_fields)}."
            if item["type"] == "missing" and part not in value:
                return f"{key} is missing."
            allowed = section.model_fields[part].rebuild_annotation()
        value = value[part]
    if item["type"] == "value_error":
        return f"{key + ': ' if key else ''}{item['msg'].removeprefix('Value error, ').removesuffix('.')}."
    words = _allowed(allowed)
    if isinstance(value, float) and not math.isfinite(value):
        words = words.replace("a number", "a finite number")
    return f"{key} is {'empty' if value is None else shorten(value, 200)}; allowed: {words}."


def _allowed(annotation: Any) -> str:
    """What a key of a type may hold, in words; those in its `Annotated`, if there are any."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        marks = [mark for part in parts[1:] for mark in getattr(part, "metadata", [part])]
        bounds = [f"{sign} {getattr(mark, name)}" for mark in marks for name, sign in _BOUNDS if hasattr(mark, name)]
        said = [mark for mark in marks if isinstance(mark, str)]
        return said[0] if said else f"{_allowed(parts[0])} {' and '.join(bounds)}".strip()
    if origin is Literal:
        return listed(annotation)
    if origin in (Union, UnionType):
        return ", or ".join(map(_allowed, parts))
    if origin in (list, tuple, dict):
        items = re.sub(r"\ban? ((whole )?\w+)", r"\1s", _allowed(parts[-1]))
        keys = "keys" if parts[0] is str else f"keys among {_allowed(parts[0])},"
        return {list: "a list of", tuple: f"a list of {len(parts)}", dict: f"{keys} with"}[origin] + f" {items}"
    return "a section with keys" if find_section(annotation) else _WORDS[annotation]


def find_section(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, whatever it is wrapped in."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := find_section(part)) is not None), None)
