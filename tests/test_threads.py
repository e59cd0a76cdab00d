"""The programs of sgpo let their OpenMP threads sleep while they wait, unless the user has chosen how they wait."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sgpo.threads import passive_waiting

ROOT = Path(__file__).parents[1]
# None imports torch; the first one runs in an environment of its own.
WITHOUT_TORCH = {f"benchmarks/{name}.py" for name in ("alpaca_eval_agreement", "measure", "rate_limit")}
SCRIPTS = {
    str(path.relative_to(ROOT)) for folder in ("examples", "benchmarks") for path in (ROOT / folder).glob("*.py")
}
COLLECT = ["-m", "pytest", "--collect-only", "-p", "no:cacheprovider"]
PROGRAMS = {
    "sgpo": ["-c", "from sgpo.cli import main; main(['train', '--help'])"],
    "python -m sgpo": ["-m", "sgpo", "train", "--help"],
    "sgpo-study": ["-c", "from sgpo_research.command import main; main(['list'])"],
    "tests": [*COLLECT, "tests/robust/test_steps.py"],
    "research/tests": [*COLLECT, "research/tests/test_simulation.py"],
    **{name: [name] for name in sorted(SCRIPTS - WITHOUT_TORCH)},
    # It imports torch only where it converts, once it knows whether the Hub answers.
    "examples/smollm2.py": ["-c", "import runpy; runpy.run_path('examples/smollm2.py')['from_wheel'](None)"],
}
# Python runs it before a program, which ends when it first looks for torch: later, nobody reads the environment.
SITE = """
import os, sys

class AtTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            with open({found!r}, "w") as file:
                file.write(str(os.environ.get("OMP_WAIT_POLICY")))
            os._exit(0)

sys.meta_path.insert(0, AtTorch())
"""
CHOICES = [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "1000"}, {"KMP_BLOCKTIME": "5"}]


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    """The environment of somebody who has said nothing about threads; the tests' own says that they wait passively."""
    for choice in CHOICES:
        monkeypatch.delenv(*choice, raising=False)


def waiting_at_torch(folder: Path, program: list[str]) -> str:
    """OMP_WAIT_POLICY when a program first looks for torch."""
    (folder / "sitecustomize.py").write_text(SITE.format(found=str(folder / "found")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    subprocess.run([sys.executable, *program], env=environment, cwd=ROOT, capture_output=True)
    return (folder / "found").read_text()


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_every_program_of_ours_waits_passively(tmp_path, program):
    assert waiting_at_torch(tmp_path, program) == "PASSIVE"


def test_the_distributions_install_no_other_program():
    projects = (tomllib.loads((ROOT / name).read_text()) for name in ("pyproject.toml", "research/pyproject.toml"))
    assert {name for project in projects for name in project["project"]["scripts"]} <= set(PROGRAMS)


@pytest.mark.parametrize("program", ["python -m sgpo", "examples/robust_dpo.py"])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_of_the_user_is_kept(tmp_path, monkeypatch, choice, program):
    [(name, value)] = choice.items()
    monkeypatch.setenv(name, value)
    expected = value if name == "OMP_WAIT_POLICY" else "None"
    assert waiting_at_torch(tmp_path, PROGRAMS[program]) == expected


def test_a_library_does_not_decide_how_a_process_waits(tmp_path):
    assert waiting_at_torch(tmp_path, ["-c", "from sgpo.leader import SGPOTrainer"]) == "None"


def test_nothing_is_set_once_torch_has_read_the_environment(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert passive_waiting() == {"OMP_WAIT_POLICY": "PASSIVE"}
    monkeypatch.setitem(sys.modules, "torch", object())
    assert passive_waiting() == {}
