"""Faults in the middle of a stage: what was written stays, only the rest is done again, and the counts add up."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk

from integration.whole_runs import fingerprint, recorded_counts
from sgpo.cli import main
from sgpo.store.files import replacing
from sgpo.store.stages import Shards

PROMPTS, CANDIDATES, SHARDS = 12, 3, 3
OPTIONS = ["--quiet", "rounds=1", "generation.shard_size=4"]

# Forks a run for each fault and a last one without. A fault is SIGKILL just before or just after something is put in
# its place. Says which shards were put in theirs, and how many items were worked on.
KILLED_IN_STAGES = """
import os, signal, sys
import sgpo.rounds.responses, sgpo.report.build
from sgpo.cli import main

def replace(source, target, replace=os.replace):
    place = os.path.relpath(target, sys.argv[2])
    if [place] == BEFORE:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if place.endswith(".arrow"):
        print("wrote", place, flush=True)
    if [place] == AFTER:
        os.kill(os.getpid(), signal.SIGKILL)

def told(name, function):
    def call(first, items, *arguments, **options):
        print(name, len(items), flush=True)
        return function(first, items, *arguments, **options)
    return call

responses = sgpo.rounds.responses
generator = sgpo.policy.generators.TransformersGenerator
generator.generate = told("generated", generator.generate)
responses.score_responses = told("scored", responses.score_responses)
sgpo.store.files.os.replace = replace
for fault in [*sys.argv[3].split(","), "never:"]:
    when, place = fault.split(":")
    BEFORE, AFTER = ([place] if when == name else [] for name in ("before", "after"))
    child = os.fork()
    if child == 0:
        os._exit(main(["run", "--config", sys.argv[1], *sys.argv[4:], "output=" + sys.argv[2]]))
    print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def check_counts(run):
    """Rows of responses and scores, and what became of each prompt, as the manifest and the pairs' counts say it."""
    counts = recorded_counts(run)
    assert counts["round-1/responses"] == {"rows": PROMPTS, "shards": SHARDS}
    for who in ("policy", "reference"):
        rows = PROMPTS * CANDIDATES
        assert counts[f"round-1/scores/{who}"] == {"rows": rows, "shards": SHARDS, "scored": rows}
    said = json.loads((run / "round-1/pairs/annotation.json").read_text())
    assert said["prompts"] == PROMPTS == said["paired"] + sum(said["dropped"].values())
    assert counts["round-1/pairs"] == {
        "rows": len(load_from_disk(run / "round-1/pairs")),
        "prompts": PROMPTS,
        "paired": said["paired"],
        "dropped": sum(said["dropped"].values()),
    }
    assert said["responses"] == PROMPTS * CANDIDATES
    assert not list(run.rglob(".*.shards"))
    assert not list(run.rglob(".*.partial"))


@pytest.mark.slow
def test_sigkill_within_stages_loses_no_shard_and_writes_none_twice(recipe):
    whole, run = recipe.parent / "whole", recipe.parent / "run"
    assert main(["run", "--config", str(recipe), *OPTIONS, f"output={whole}"]) == 0
    faults = [
        "after:round-1/.responses.shards/00000.arrow",
        "before:round-1/.responses.shards/00001.arrow",  # the shard is whole, and still no shard
        "before:round-1/responses",  # all shards are there, and merged
        "after:round-1/scores/.policy.shards/00001.arrow",
        "before:round-1/scores/.reference.shards/00002.arrow",
    ]
    command = [sys.executable, "-c", KILLED_IN_STAGES, str(recipe), str(run), ",".join(faults), *OPTIONS]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    said = result.stdout.splitlines()
    assert [line for line in said if line.startswith("exit")] == ["exit -9"] * len(faults) + ["exit 0"], result.stderr
    assert sorted(line for line in said if line.startswith("wrote")) == sorted(
        f"wrote round-1/{stage}.shards/{index:05d}.arrow"
        for stage in (".responses", "scores/.policy", "scores/.reference")
        for index in range(SHARDS)
    )
    # Two faults came before a shard was in place: its four prompts, and their responses, are done once more.
    assert [line for line in said if line.startswith("generated")] == ["generated 4"] * (SHARDS + 1)
    assert [line for line in said if line.startswith("scored")] == [f"scored {4 * CANDIDATES}"] * (2 * SHARDS + 1)
    assert fingerprint(run) == fingerprint(whole)
    assert recorded_counts(run) == recorded_counts(whole)
    check_counts(run)


@pytest.mark.parametrize("stage", ["responses", "scores/reference"])
def test_a_disk_that_fills_up_within_a_stage_is_one_message_and_the_run_goes_on(recipe, capsys, monkeypatch, stage):
    """The kernel says that no space is left: the second shard is written to /dev/full."""
    run, written = recipe.parent / "run", []
    write = Shards.write

    @contextmanager
    def full(path):
        with replacing(path) as partial:
            if path == filling / "00001.arrow":
                partial.symlink_to("/dev/full")
            yield partial

    def told(shards, index, *arguments, **options):
        write(shards, index, *arguments, **options)
        written.append((shards.folder.name, index))

    monkeypatch.setattr("sgpo.store.stages.replacing", full)
    monkeypatch.setattr(Shards, "write", told)
    place = run / "round-1" / stage
    filling = place.with_name(f".{place.name}.shards")
    assert main(["run", "--config", str(recipe), *OPTIONS]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"sgpo run: {run}: no room is left on the disk (" in said
    assert "No space left on device" in said
    assert "Finished stages and shards are kept; the same command continues" in said
    assert [path.name for path in filling.iterdir()] == ["00000.arrow"]
    monkeypatch.setattr("sgpo.store.stages.replacing", replacing)
    assert main(["run", "--config", str(recipe), *OPTIONS]) == 0
    stages = (".responses.shards", ".policy.shards", ".reference.shards")
    assert written == [(name, index) for name in stages for index in range(SHARDS)]
    check_counts(run)


def test_a_pool_that_is_exchanged_between_two_starts_is_found_out(recipe, capsys, monkeypatch):
    filling = recipe.parent / "run/round-1/.responses.shards"
    write = Shards.write

    def interrupted(shards, index, *arguments, **options):
        if index == 1:
            raise KeyboardInterrupt
        write(shards, index, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Shards, "write", interrupted)
        assert main(["run", "--config", str(recipe), *OPTIONS]) == 130
    write_prompts(recipe, [f"Who is number {number}?" for number in range(PROMPTS)])
    capsys.readouterr()
    assert main(["run", "--config", str(recipe), *OPTIONS]) == 2
    assert f"allowed: the same for all. Remove {filling} to make them again." in capsys.readouterr().err
    shutil.rmtree(filling)
    assert main(["run", "--config", str(recipe), *OPTIONS]) == 0
    rows = load_from_disk(filling.with_name("responses"))
    assert all(prompt[0]["content"].startswith("Who is number") for prompt in rows["prompt"])


# Gives a run in a file system of its own a little more room each time it has none, until it ends.
GROWING_DISK = """
import os, subprocess, sys
import sgpo.rounds.loop, sgpo.report.build
from sgpo.cli import main

disk, recipe, kept, *options = sys.argv[1:]
for size in range(200, 2000, 170):
    how = ["-o", f"{'remount,' if size > 200 else ''}size={size}k"]
    subprocess.run(["mount", "-t", "tmpfs", *how, "tmpfs", disk], check=True)
    child = os.fork()
    if child == 0:
        os._exit(main(["run", "--config", recipe, *options, f"output={disk}/run"]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("exit", status, flush=True)
    if status != 2:
        break
subprocess.run(["cp", "-r", f"{disk}/run", kept], check=True)
"""


def may_mount() -> bool:
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(
            ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True
        ).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace, for a disk of a few hundred kilobytes")
def test_a_disk_that_is_full_again_and_again_wherever_the_run_is_changes_nothing(recipe, tmp_path):
    """Weights, datasets, manifest, metrics and report: whichever meets the end of the disk first."""
    whole, disk = tmp_path / "whole", tmp_path / "disk"
    disk.mkdir()
    assert main(["run", "--config", str(recipe), *OPTIONS, f"output={whole}"]) == 0
    command = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", GROWING_DISK]
    command += [str(disk), str(recipe), str(tmp_path / "kept"), *OPTIONS]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    exits = result.stdout.split("\n")[:-1]
    assert len(exits) >= 3, result.stdout
    assert set(exits[:-1]) == {"exit 2"}, result.stderr
    assert exits[-1] == "exit 0", result.stderr
    said = result.stderr.splitlines()
    assert len(said) == len(exits) - 1, result.stderr
    # Before it starts, where it is known that the weights to come do not fit; within a stage, otherwise.
    assert said[0].startswith(f"sgpo run: output: {disk}/run needs about 0.000")
    assert all(line.startswith(f"sgpo run: {disk}/run: no room is left on the disk (") for line in said[1:]), said
    assert fingerprint(tmp_path / "kept") == fingerprint(whole)
    assert recorded_counts(tmp_path / "kept") == recorded_counts(whole)


# -- prompt pools ---------------------------------------------------------------------------------------------------


def write_prompts(recipe, prompts):
    lines = (json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
    (recipe.parent / "prompts.jsonl").write_text("".join(lines))


def dry_run(recipe, capsys, *options):
    """Exit code, and what was said on either stream with its line breaks undone."""
    code = main(["run", "--config", str(recipe), "--dry-run", *options])
    captured = capsys.readouterr()
    assert not (recipe.parent / "run").exists()
    return code, " ".join(captured.out.split()), captured.err


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """Messages of a plan are broken at the terminal's edge, in the middle of a long path if need be."""
    monkeypatch.setenv("COLUMNS", "400")


QUESTIONS = [f"Who is number {number}?" for number in range(8)]


def test_repeated_prompts_are_noted_and_every_one_of_them_is_counted(recipe, capsys):
    """As the splits of the data compare them: white space and case do not count."""
    write_prompts(recipe, [*QUESTIONS, *QUESTIONS[:2], QUESTIONS[2].upper(), f" {QUESTIONS[3]}"])
    heldout = recipe.parent / "heldout.jsonl"
    heldout.write_text(heldout.read_text() + (recipe.parent / "seeds.jsonl").read_text().replace("Tell me", "TELL  me"))
    code, said, _ = dry_run(recipe, capsys)
    assert code == 0
    assert "prompts.jsonl repeats 4 of its 12 prompts." in said
    assert "8 prompts of data.heldout are also among the seeds" in said
    assert main(["run", "--config", str(recipe), *OPTIONS]) == 0
    check_counts(recipe.parent / "run")


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_prompt_is_refused_by_file_and_line(recipe, capsys, empty):
    write_prompts(recipe, [*QUESTIONS, empty])
    code, _, error = dry_run(recipe, capsys)
    assert code == 2
    assert error.count("\n") == 1
    assert f"{recipe.parent / 'prompts.jsonl'} line 9: the prompt in prompt is empty" in error


def test_a_prompt_of_100k_characters_is_noted_by_file_and_line_and_left_out(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    write_prompts(recipe, [*QUESTIONS, "bridge " * 14_286])
    code, said, error = dry_run(recipe, capsys)
    assert (code, error) == (0, "")
    path = recipe.parent / "prompts.jsonl"
    assert f"{path}: 1 of 9 prompts have more than 127 tokens (the first: {path} line 9," in said


def test_a_pool_of_prompts_of_100k_characters_is_refused(recipe, capsys):
    write_prompts(recipe, ["bridge " * 14_286] * 2)
    code, _, error = dry_run(recipe, capsys)
    assert code == 2
    assert error.count("\n") == 1
    assert f"{recipe.parent / 'prompts.jsonl'}: every prompt is too long" in error


def test_bytes_that_are_no_utf8_are_refused_by_file_and_line(recipe, capsys):
    lines = [json.dumps({"prompt": question}).encode() for question in QUESTIONS]
    lines[5] = b'{"prompt": "Who is \xff?"}'
    (recipe.parent / "prompts.jsonl").write_bytes(b"\n".join(lines))
    code, _, error = dry_run(recipe, capsys)
    assert code == 2
    assert error.count("\n") == 1
    assert f"{recipe.parent / 'prompts.jsonl'} line 6: not valid UTF-8 (byte 19)" in error


def test_bytes_that_are_no_utf8_are_refused_by_file_and_row_in_parquet(recipe, capsys):
    path = recipe.parent / "prompts.parquet"
    prompts = [question.encode() for question in QUESTIONS]
    prompts[3] = b"Who is \xff?"
    pq.write_table(pa.table({"prompt": pa.array(prompts, pa.binary()).view(pa.string())}), path)
    code, _, error = dry_run(recipe, capsys, f"data.prompts={path}")
    assert code == 2
    assert error.count("\n") == 1
    assert f"{path} row 3: not valid UTF-8" in error
