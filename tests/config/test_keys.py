"""`sgpo run --keys`: every key of a recipe with its default and what it sets."""

import json

import pytest

from sgpo.cli import main
from sgpo.config import RunConfig
from sgpo.config.keys import recipe_sections, section_keys

SECTIONS = dict(recipe_sections())


@pytest.fixture
def shown(monkeypatch, capsys):
    """What the command prints, line by line, on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "800")

    def show(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["run", *arguments])
        assert ended.value.code == 0
        return [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]

    return show


def test_every_key_of_every_section_is_printed_once_with_its_default_and_description(shown):
    lines = shown("--keys")
    for section, kind in SECTIONS.items():
        for name, field in kind.model_fields.items():
            dotted = f"{section}.{name}" if section else name
            if dotted in SECTIONS and isinstance(field.default, SECTIONS[dotted]):
                continue
            (line,) = [line for line in lines if line.split()[0] == dotted]
            default = field.get_default(call_default_factory=True)
            value = "required" if field.is_required() else default if isinstance(default, str) else json.dumps(default)
            assert line.split(maxsplit=1)[1].startswith(value), dotted
            assert line.endswith(field.description or value), dotted


def test_the_sections_are_those_of_a_recipe_and_their_names_lead_to_them():
    assert {"", "model", "data", "data.split", "data.split.sources", "follower", "leader", "evaluate"} <= set(SECTIONS)
    for name, kind in SECTIONS.items():
        found = RunConfig
        for part in filter(None, name.split(".")):
            assert part in found.model_fields, name
            found = SECTIONS[f"{name[: name.index(part) + len(part)]}"]
        assert found is kind, name
    assert [name for name, _, _ in section_keys("model", SECTIONS["model"])][:2] == ["model.path", "model.gguf_file"]


def test_one_section_is_printed_alone(shown):
    assert {line.split()[0].rpartition(".")[0] for line in shown("--keys", "data.split")[1:]} == {"data.split"}


def test_an_unknown_section_is_refused_with_the_known_ones(capsys):
    assert main(["run", "--keys", "folower"]) == 2
    error = capsys.readouterr().err
    assert "section is 'folower'; allowed: model, data, data.split," in error
    assert " follower, leader," in error


def test_the_help_of_a_run_leads_to_the_keys(shown):
    said = " ".join(shown("--help"))
    assert "`sgpo run --keys` lists the keys of a recipe" in said
