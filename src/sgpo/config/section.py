"""What a recipe's sections are made of: number types, keys, settings, and one sentence for each mistake."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from sgpo.errors import InputError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]

_Model = TypeVar("_Model", bound=BaseModel)


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
        raise InputError("\n".join(f"{name}: {_sentence(kind, item)}" for item in error.errors())) from error


def _sentence(kind: type[BaseModel], item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"] if not str(part).startswith(("constrained", "list[", "function")))
    if item["type"] == "extra_forbidden":
        # Numbers are indices of a list of sections.
        for part in (part for part in item["loc"][:-1] if not isinstance(part, int)):
            kind = find_section(kind.model_fields[part].annotation)
        return f"unknown key {key}; allowed: {', '.join(kind.model_fields)}."
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removesuffix(".")
    if item["type"] == "value_error":
        return f"{key + ': ' if key else ''}{message}."
    if item["type"] == "missing":
        return f"{key} is missing."
    return f"{key} is {item['input']!r}; allowed: {message}."


def find_section(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, whatever it is wrapped in."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := find_section(part)) is not None), None)
