"""The documentation names what exists."""

import re
from dataclasses import fields
from pathlib import Path

from trl import DPOConfig

from sgpo.config import RunConfig, read_recipe, validate
from sgpo.config.keys import recipe_sections, section_keys
from sgpo.leader import SGPOConfig
from sgpo.leader.pair_losses import PAIR_LOSSES
from sgpo.preferences.annotate import REASONS
from sgpo.rounds.responses import TOO_LONG

ROOT = Path(__file__).parents[1]
RECIPE_PAGE = (ROOT / "docs/recipe.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "PAPER.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def documented_tables() -> dict[str, list[str]]:
    """The rows below each heading of docs/recipe.md that names a section; "" is the recipe itself."""
    tables, section = {"": []}, ""
    for line in RECIPE_PAGE.splitlines():
        if heading := re.fullmatch(r"##+ (?:`([\w.]+)`|.*)", line):
            section = heading[1]
        elif section is not None and line.startswith("| `"):
            tables.setdefault(section, []).append(line)
    return tables


def test_every_key_of_a_recipe_is_documented_with_its_default_and_description():
    """The rows that `sgpo run --keys` prints, in the same order; `world` has a table of its files below its own."""
    tables, sections = documented_tables(), dict(recipe_sections())
    assert set(tables) == set(sections)
    for section, kind in sections.items():
        rows = [
            f"| `{name.removeprefix(f'{section}.')}` | `{default}` | {what} |".replace("`required`", "required")
            for name, default, what in section_keys(section, kind)
        ]
        assert tables[section][: len(rows)] == rows, section
        assert len(tables[section]) == len(rows) or section == "world", section


def test_every_section_of_a_recipe_is_introduced_by_its_own_words():
    """`evaluate` is introduced as a list."""
    for section, kind in recipe_sections():
        introduction = " ".join(RECIPE_PAGE.partition(f"## `{section}`\n")[2].partition("\n|")[0].split())
        assert section in ("", "evaluate") or kind.__doc__ in introduction, section


def test_every_argument_of_the_trainer_is_documented_with_its_default_and_description():
    """Those that SGPOConfig adds to TRL's: of the pair losses, and then its own."""
    added = {field.name: field for field in fields(SGPOConfig) if field.name not in DPOConfig.__dataclass_fields__}
    names = dict.fromkeys(field.name for loss in PAIR_LOSSES for field in fields(loss.Settings)) | dict.fromkeys(added)
    rows = [f"| `{name}` | `{added[name].default}` | {added[name].metadata['help']} |" for name in names]
    page = (ROOT / "docs/leader.md").read_text(encoding="utf-8")
    section = page.partition("\n## Arguments\n")[2].partition("\n##")[0]
    assert [line for line in section.splitlines() if line.startswith("| `")] == rows


def test_every_reason_to_drop_a_prompt_is_named():
    data = RECIPE_PAGE.partition("\n## Data\n")[2].partition("\n## ")[0]
    for reason in (*REASONS, TOO_LONG):
        assert f"`{reason}`" in data, reason


def test_every_recipe_is_valid():
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        validate(RunConfig, read_recipe(path, []), path.name)


def test_links_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


def test_paper_names_tests_that_exist():
    paper = (ROOT / "PAPER.md").read_text(encoding="utf-8")
    for file, name in re.findall(r"`((?:research/)?tests/[\w/]+\.py)(?:::(\w+))?`", paper):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, (file, name)


def test_contributing_names_files_that_exist():
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for file in re.findall(r"`((?:\w+/)+\w+\.py)`", contributing):
        assert (ROOT / file).exists() or (ROOT / "src" / "sgpo" / file).exists(), file


def test_prose_is_wrapped_at_120():
    """Not the rows of tables, nor what stands in code blocks."""
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for line in prose.splitlines():
            assert len(line) <= 120 or line.startswith("|") or " " not in line.strip(), (page.name, line)
