"""Validates the content of a recipe, with one sentence for each mistake."""

from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sgpo.errors import InputError

_Model = TypeVar("_Model", bound=BaseModel)


def validate(kind: type[_Model], content: dict[str, Any], name: str) -> _Model:
    """Builds a pydantic model, or raises one InputError that lists each wrong key, its value and what is allowed."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError("\n".join(f"{name}: {_sentence(kind, item)}" for item in error.errors())) from error


def _sentence(kind: type[BaseModel], item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"] if not str(part).startswith(("constrained", "list[", "function")))
    if item["type"] == "extra_forbidden":
        return f"unknown key {key}; allowed: {', '.join(_section_at(kind, item['loc'][:-1]).model_fields)}."
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if item["type"] == "value_error":
        return f"{key + ': ' if key else ''}{message}."
    if item["type"] == "missing":
        return f"{key} is missing."
    return f"{key} is {item['input']!r}; allowed: {message}."


def _section_at(kind: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The section at a place of a recipe; numbers are indices of a list of sections."""
    for part in place:
        if not isinstance(part, int):
            kind = find_section(kind.model_fields[part].annotation)
    return kind


def find_section(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, whatever it is wrapped in."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := find_section(part)) is not None), None)
