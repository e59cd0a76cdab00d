"""The documentation names what exists."""

import json
import re
from pathlib import Path

import pytest

from sgpo.config import EvaluateConfig, RunConfig, Section, WorldConfig, read_recipe, validate

ROOT = Path(__file__).parents[1]
RECIPE_PAGE = (ROOT / "docs/recipe.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "PAPER.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def rows(section: type[Section]) -> list[str]:
    """The rows of docs/recipe.md that a section must have."""
    found = []
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Section):
            found += rows(type(default))
            continue
        if field.is_required():
            found.append(f"| `{name}` | required | ")
            continue
        shown = default if isinstance(default, str) else json.dumps(default)
        found.append(f"| `{name}` | `{shown}` | ")
    return found


@pytest.mark.parametrize("row", [*rows(RunConfig), *rows(EvaluateConfig), *rows(WorldConfig)])
def test_every_key_of_a_recipe_is_documented_with_its_default(row):
    assert row in RECIPE_PAGE


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_valid(path):
    validate(RunConfig, read_recipe(path, []), path.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_paper_names_tests_that_exist():
    paper = (ROOT / "PAPER.md").read_text(encoding="utf-8")
    for file, name in re.findall(r"`((?:research/)?tests/[\w/]+\.py)(?:::(\w+))?`", paper):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, (file, name)
