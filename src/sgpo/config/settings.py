"""One description of a setting: its type with bounds, default and help, for a recipe, a command line and a check.

A setting is a field of a plain dataclass, annotated with pydantic's constraints. Hugging Face's argument parser reads
such fields, and `keys_of` makes keys of a recipe from them.
"""

import dataclasses
from typing import Any, get_type_hints

from pydantic import Field
from pydantic.fields import FieldInfo


def setting(default: Any, description: str) -> Any:
    """A field of a dataclass with its help on the command line."""
    return dataclasses.field(default=default, metadata={"help": description})


def keys_of(settings: type, **changes: tuple[Any, str | None]) -> dict[str, tuple[Any, FieldInfo]]:
    """The settings of a dataclass as keys of a recipe, by name.

    Args:
        settings: a dataclass of settings.
        **changes: another type, and another description or None, of keys that differ in a recipe.
    """
    hints = get_type_hints(settings, include_extras=True)
    keys = {}
    for field in dataclasses.fields(settings):
        kind, description = changes.get(field.name, (hints[field.name], None))
        keys[field.name] = (kind, Field(field.default, description=description or field.metadata.get("help")))
    return keys
