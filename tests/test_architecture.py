"""The rooms of the package and who may enter which (docs: CONTRIBUTING.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sgpo"

# A room may import itself, the rooms named here, and the shared errors, config and package root.
ALLOWED = {
    "robust": set(),
    "serving": set(),
    "policy": {"robust", "serving"},
    "preferences": {"robust", "policy", "serving"},
    "evaluate": {"robust", "policy", "preferences", "serving"},
    "leader": {"robust", "policy", "preferences"},
    "run_dir": set(),
    "report": {"run_dir"},
    "progress": set(),
    "processes": set(),
    "shards": set(),
    "config": set(),
    "gaps_file": {"robust"},
    "rounds": {
        "robust", "serving", "policy", "preferences", "leader", "evaluate", "run_dir", "progress", "processes",
        "shards", "config", "estimate",
    },
    "hub": set(),
    "estimate": set(),
    "plan": {"robust", "leader", "rounds", "run_dir", "config", "estimate"},
    "study": {
        "robust", "policy", "preferences", "leader", "evaluate", "rounds", "plan", "run_dir", "progress",
        "processes", "config",
    },
    "cli_split": {"policy", "preferences", "hub", "progress"},
    "cli_eval": {"cli_eval_run"},
    "cli_eval_run": {
        "evaluate", "policy", "preferences", "serving", "rounds", "run_dir", "progress", "processes", "config", "hub",
    },
    "cli_study": {"study"},
    "cli": {
        "cli_eval", "cli_split", "cli_study", "run_dir", "rounds", "plan", "study", "leader", "report", "robust",
        "gaps_file", "progress", "processes", "config", "hub",
    },
    "__main__": {"cli"},
}  # fmt: skip

FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    room = room_of(path)
    if room in ("__init__", "errors"):
        return
    rooms = {module.split(".")[1] for module in imported_modules(path) if module.startswith("sgpo.")}
    rooms -= {room, "errors", "__version__"}
    assert rooms <= ALLOWED[room], f"{room} imports {rooms - ALLOWED[room]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_the_leader_and_the_study_import_trl(path):
    heads = {module.split(".")[0] for module in imported_modules(path)}
    assert "trl" not in heads or room_of(path) in ("leader", "study")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_report_and_the_mathematics_need_no_models(path):
    heads = {module.split(".")[0] for module in imported_modules(path)}
    if room_of(path) == "report":
        assert not heads & {"torch", "transformers", "datasets"}
    if room_of(path) == "robust":
        assert not heads & {"transformers", "datasets", "logging", "pathlib"}


def test_no_file_is_longer_than_400_lines():
    lengths = {str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {file: length for file, length in lengths.items() if length > 400} == {}


def test_importing_sgpo_loads_no_heavy_library():
    code = "import sys, sgpo; print([m for m in ('torch', 'numpy', 'transformers', 'trl') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
