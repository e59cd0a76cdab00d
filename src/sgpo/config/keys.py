"""The keys of a recipe as its sections describe them, for `sgpo run --keys`."""

import json
from collections.abc import Iterator
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from sgpo.config.check import find_section
from sgpo.config.recipe import RunConfig
from sgpo.config.section import Section
from sgpo.errors import InputError


class Key(NamedTuple):
    """A key of a recipe: its dotted name, its default as YAML has it, and what it sets."""

    name: str
    default: str
    description: str


def recipe_sections(kind: type[Section] = RunConfig, name: str = "") -> Iterator[tuple[str, type[Section]]]:
    """The sections of a recipe by their dotted names, the recipe itself ("") first."""
    yield name, kind
    for key, field in kind.model_fields.items():
        if inner := find_section(field.annotation):
            yield from recipe_sections(inner, f"{name}.{key}" if name else key)


def section_keys(name: str, kind: type[Section]) -> list[Key]:
    """The keys of a section; sections inside it have their own."""
    found = []
    for key, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Section):
            continue
        shown = "required" if field.is_required() else default if isinstance(default, str) else json.dumps(default)
        found.append(Key(f"{name}.{key}" if name else key, shown, field.description or ""))
    return found


def keys_table(section: str | None = None) -> Table:
    """The keys of a recipe, or of one section, as a table.

    Raises:
        InputError: there is no such section.
    """
    sections = dict(recipe_sections())
    if section is not None and section not in sections:
        raise InputError(f"section is {section!r}; allowed: {', '.join(name for name in sections if name)}.")
    table = Table("key", "default", "", box=None, title_justify="left")
    for name, kind in sections.items():
        if section in (None, name):
            table.add_section()
            for key in section_keys(name, kind):
                table.add_row(*map(Text, key))
    return table
