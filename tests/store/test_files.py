"""Several processes may write one file: it is always one of theirs, whole, and nothing partly written stays."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from pydantic import BaseModel

from sgpo.store.files import replacing, write_atomically
from sgpo.store.run_dir import RunDir

WRITING = """
import sys
from sgpo.store.files import write_atomically
for _ in range(300):
    write_atomically(sys.argv[1], sys.argv[2] * 200_000)
"""
# Stops in the middle of a file or folder, once it has said so.
STOPPED = """
import sys, time
from pathlib import Path
from sgpo.store.files import replacing
with replacing(sys.argv[1]) as partial:
    if sys.argv[2] == "file":
        partial.write_text("half")
    else:
        partial.mkdir()
        (partial / "part").write_text("half")
    print("written", flush=True)
    time.sleep(600)
"""


class Recipe(BaseModel):
    seed: int = 0


@contextmanager
def half_written(path, kind="file"):
    """A process that has written half of `path` during the block, and is killed at its end; yields what it wrote."""
    with subprocess.Popen([sys.executable, "-c", STOPPED, str(path), kind], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"written\n"
            yield path.with_name(f".{path.name}.{process.pid}.partial")
        finally:
            process.kill()


def test_overlapping_writers_end_and_every_reader_sees_the_whole_of_one(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("")
    command = [sys.executable, "-c", WRITING, str(path)]
    writers = [subprocess.Popen([*command, letter], stderr=subprocess.PIPE) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(path.read_text())
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {"", "a" * 200_000, "b" * 200_000}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_removes_what_killed_ones_left_and_nothing_else(tmp_path, kind):
    path, others = tmp_path / "pairs[1]", {tmp_path / ".pairs[1].d.partial", tmp_path / ".pairs1.1.partial"}
    for other in others:
        other.touch()
    for _ in range(2):
        with half_written(path, kind) as left:
            assert {*tmp_path.iterdir()} == {*others, left}
    with half_written(path, kind) as running:
        with replacing(path) as partial:
            partial.write_text("whole")
        assert path.read_text() == "whole"
        assert {*tmp_path.iterdir()} == {*others, path, running}
    write_atomically(path, "again")
    assert {*tmp_path.iterdir()} == {*others, path}


def test_a_run_that_starts_removes_what_killed_processes_left_and_no_file_that_is_being_written(tmp_path):
    root = tmp_path / "run"
    RunDir(root, Recipe(), []).close()
    for place in ("report.html", "round-1/metrics.json"):
        with half_written(root / place):
            pass
    (root / f".pairs.{10**30}.partial").mkdir()  # No process has such a number.
    with half_written(root / "report.html") as running:
        RunDir(root, Recipe(), []).close()
        assert list(root.rglob(".*.partial")) == [running]
    RunDir(root, Recipe(), []).close()
    assert not list(root.rglob(".*.partial"))


def test_a_process_of_another_user_counts_as_running(tmp_path, monkeypatch):
    def refuse(pid, signal):
        raise PermissionError

    partial = tmp_path / ".report.html.1.partial"
    partial.touch()
    monkeypatch.setattr(os, "kill", refuse)
    write_atomically(tmp_path / "report.html", "whole")
    assert partial.exists()
