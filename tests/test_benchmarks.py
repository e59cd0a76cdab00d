"""The benchmarks that a person starts on another machine run in their smallest form."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from processes import runs, wait_until
from sgpo.config.read import read_recipe
from sgpo.policy.load import load_policy
from sgpo_research.real_model import METHODS, Setting
from sgpo_research.real_model_command import real_model_parser
from sgpo_research.requests_command import requests_parser
from tiny_gguf import write_gguf
from tiny_model import build_tiny_model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def table_rows(text):
    """{first cell: further cells} of every row below a heading."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {first: [cell.replace(",", "") for cell in rest] for first, *rest in rows if set(first) != {"-"}}


def number(cell):
    return float(cell.replace(",", ""))


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_run", BENCHMARKS / "gpu/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_steps(gpu, monkeypatch, *steps):
    made = [lambda arguments, name=name, code=code: gpu.Step(name, ["-c", code], 0.1) for name, code in steps]
    for make, (name, _) in zip(made, steps, strict=True):
        make.__name__ = f"{name}_step"
    monkeypatch.setattr(gpu, "STEPS", made)


def run_gpu(gpu, folder, budget):
    words = ["--output", str(folder), "--budget", str(budget), "--device", "cpu", "--small"]
    code = gpu.main(words)
    return code, json.loads((folder / "summary.json").read_text()), (folder / "summary.md").read_text()


def test_a_step_that_fails_or_hangs_is_named_and_the_next_one_runs(gpu, monkeypatch, tmp_path, capsys):
    pid = tmp_path / "pid"
    hang = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    good = "print('noise\\n| a | b |\\n| -- | -- |\\n| 1 | 2 |')"
    bad = "raise SystemExit('no such card')"
    with_steps(gpu, monkeypatch, ("bad", bad), ("hang", hang), ("good", good))
    start = time.monotonic()
    code, summary, page = run_gpu(gpu, tmp_path / "out", budget=6)
    assert code == 1 and time.monotonic() - start < 30
    status = {step["name"]: step["status"] for step in summary["steps"]}
    assert status["bad"] == "failed with code 1" and status["good"] == "done"
    assert status["hang"].startswith("out of time after")
    assert "no such card" in page and "| 1 | 2 |" in page and "noise" not in page
    assert summary["torch"] in page and summary["device"] in page
    wait_until(lambda: not runs(int(pid.read_text())))
    assert "hang: out of time" in capsys.readouterr().out


def test_what_a_step_does_not_need_goes_to_the_next_and_later_steps_keep_their_shares(gpu, monkeypatch, tmp_path):
    with_steps(gpu, monkeypatch, ("first", "pass"), ("second", "pass"), ("third", "pass"))
    code, summary, _ = run_gpu(gpu, tmp_path / "out", budget=1000)
    limits = [step["limit"] for step in summary["steps"]]
    assert code == 0
    assert limits == pytest.approx([800, 900, 1000], abs=30)


def test_what_cannot_be_is_one_message(gpu, tmp_path, capsys):
    cases = {
        "--budget is 0.0; allowed: seconds > 0": ["--budget", "0"],
        "--model /no/such/folder does not exist": ["--model", "/no/such/folder"],
        "argument --device: invalid choice: 'tpu'": ["--device", "tpu"],
    }
    for message, words in cases.items():
        with pytest.raises(SystemExit) as ended:
            gpu.main(["--output", str(tmp_path / "out"), *words])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_commands_of_the_whole_form_are_taken(gpu, tmp_path):
    """As far as it can be told without a card: options, recipe and overrides of the study's commands, and scripts."""
    arguments = gpu.parse(["--output", str(tmp_path / "out"), "--model", str(tmp_path)])
    commands = {step.name: step.command for make in gpu.STEPS if (step := make(arguments))}
    assert list(commands) == ["tests", "world", "loop", "loop_table", "follower", "leader", "real_model"]
    assert requests_parser().parse_args(commands["world"][3:]).model == str(tmp_path)
    for name in ("loop", "loop_table"):
        study = real_model_parser().parse_args(commands[name][3:])
        setting = Setting(study.model, study.world, study.output, read_recipe(study.config, study.set))
        for method in study.methods or METHODS:
            assert setting.recipe_of("clean", 0, method).generation.batch_size == 768
    for name in ("follower", "leader", "real_model"):
        script, *words = commands[name]
        known = set(re.findall(r"add_argument\(\s*\"(--[\w-]+)", Path(script).read_text()))
        assert {word for word in words if word.startswith("--")} <= known, name


def test_every_folder_of_a_world_is_run_beside_the_others(gpu, tmp_path, capsys):
    for name in ("clean-0", "clean-1", "inverted-title-0", "inverted-title-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "seeds.jsonl").touch()
    words = ["--output", str(tmp_path / "out"), "--model", str(tmp_path), "--world", str(tmp_path)]
    arguments = gpu.parse(words)
    assert gpu.world_step(arguments) is None
    study = real_model_parser().parse_args(gpu.loop_step(arguments).command[3:])
    assert (study.world, study.labels, study.seeds, study.jobs) == (tmp_path, ["clean", "inverted-title"], [0, 1], 4)
    (tmp_path / "flipped-0").mkdir()
    (tmp_path / "flipped-0/seeds.jsonl").touch()
    for refused, message in ((words, "and not flipped-1"), ([*words, "--small"], "leave one of them out")):
        with pytest.raises(SystemExit):
            gpu.parse(refused)
        assert message in capsys.readouterr().err
    alone = gpu.parse(["--output", str(tmp_path / "out"), "--steps", "test", "leader"])
    assert gpu.model_step(alone) is None


def test_a_gguf_file_becomes_the_model_of_all_steps(gpu, tmp_path):
    file = write_gguf(build_tiny_model(tmp_path / "tiny"), tmp_path / "tiny.gguf")
    arguments = gpu.parse(["--output", str(tmp_path), "--runs", str(tmp_path / "runs"), "--gguf", str(file)])
    step = gpu.model_step(arguments)
    gpu.run_step(step, tmp_path, limit=120)
    assert step.status == "done", (tmp_path / "model.log").read_text()
    assert load_policy(str(arguments.model)).context == 256


@pytest.mark.slow
def test_the_smallest_form_of_every_step_runs_on_a_cpu(gpu, tmp_path):
    words = ["--output", str(tmp_path / "out"), "--runs", str(tmp_path), "--budget", "3000", "--device", "cpu"]
    gpu.main([*words, "--small"])
    summary, page = json.loads((tmp_path / "out/summary.json").read_text()), (tmp_path / "out/summary.md").read_text()
    assert {step["name"]: step["status"] for step in summary["steps"]} == dict.fromkeys(
        ("tests", "loop", "follower", "leader", "real_model"), "done"
    ), page
    rows = table_rows(page)
    assert rows["10,000"] and number(rows["SGPO envelope"][0]) > 0 and number(rows["TRL"][0]) > 0
    assert " skipped" in page


@pytest.mark.slow
def test_a_real_model_is_compared_with_generate_and_trl_in_its_smallest_form(tmp_path):
    model = build_tiny_model(tmp_path / "model")
    command = [
        sys.executable, str(BENCHMARKS / "real_model.py"), "--model", str(model), "--count", "2", "--max-new-tokens",
        "4", "--pairs", "1", "--steps", "3", "--repeats", "2",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([*command, "--no-memory"], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = table_rows(ran.stdout)
    names = ["model.generate", "sgpo, backend transformers", "TRL", "sgpo", "TRL DPOTrainer", "SGPO envelope, stored"]
    assert all(number(rows[name][0]) > 0 and float(rows[name][1]) > 0 for name in names)
    assert rows["model.generate"] == [rows["model.generate"][0], "1.00", "-", "-"]
    alone = ["--folder", str(tmp_path), "--alone", "writing", "sgpo"]
    ran = subprocess.run([*command, *alone], env=environment, capture_output=True, text=True, check=True)
    assert 100 < float(ran.stdout) < 5000
