"""The keys of a recipe as its sections describe them, for `sgpo run --keys` and docs/recipe.md."""

import json
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from sgpo.config.recipe import RunConfig
from sgpo.config.section import Section, find_section
from sgpo.errors import InputError


def recipe_sections(kind: type[Section] = RunConfig, name: str = "") -> Iterator[tuple[str, type[Section]]]:
    """The sections of a recipe by their dotted names, the recipe itself ("") first."""
    yield name, kind
    for key, field in kind.model_fields.items():
        if inner := find_section(field.annotation):
            yield from recipe_sections(inner, f"{name}.{key}" if name else key)


def section_keys(name: str, kind: type[Section]) -> Iterator[tuple[str, str, str]]:
    """Dotted name, default as YAML has it, and description of each key of a section; inner sections have their own."""
    for key, field in kind.model_fields.items():
        shown = "required" if field.is_required() else field.get_default(call_default_factory=True)
        if not isinstance(shown, Section):
            shown = shown if isinstance(shown, str) else json.dumps(shown)
            yield f"{name}.{key}" if name else key, shown, field.description


def keys_table(section: str | None = None) -> Table:
    """The keys of a recipe, or of one section, as a table; raises InputError if there is no such section."""
    sections = dict(recipe_sections())
    if section not in (None, *sections):
        raise InputError(f"section is {section!r}; allowed: {', '.join(filter(None, sections))}.")
    table = Table("key", "default", "", box=None)
    for name, kind in sections.items():
        if section in (None, name):
            table.add_section()
            for key in section_keys(name, kind):
                table.add_row(*map(Text, key))
    return table
