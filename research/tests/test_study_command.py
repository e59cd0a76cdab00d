"""`sgpo-study`: the list, a table from the command line, and what is refused."""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pyarrow.parquet as pq
import pytest

from sgpo.cli import main as sgpo
from sgpo_research.command import main
from sgpo_research.jobs import one_thread_each
from sgpo_research.registry import study_tables


def test_sgpo_study_says_where_the_study_went(capsys):
    assert sgpo(["study", "table1", "--quick"]) == 2
    said = capsys.readouterr().err
    assert "pip install ./research" in said and "sgpo-study" in said


def test_the_list_names_every_table(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in study_tables())


def test_a_quick_table_is_printed_and_on_disk(capsys, tmp_path):
    assert main(["theory-value", "--quick", "--seeds", "2", "--output", str(tmp_path)]) == 0
    assert "SGPO" in capsys.readouterr().out
    rows = pq.read_table(tmp_path / "theory-value-quick.parquet").to_pylist()
    assert {row["seed"] for row in rows} == {0, 1}
    assert all(row["lost"] <= row["bound"] + 1e-8 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table99", "--output", "x"], "table is 'table99'; allowed: table1"),
        (["theory-value"], "--output is missing"),
        (["theory-value", "--output", "x", "--seeds", "0"], "--seeds is 0"),
        (["theory-value", "--output", "x", "--jobs", "0"], "--jobs is 0"),
    ],
)
def test_what_is_no_table_is_refused(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_every_table_has_a_quick_form_with_its_keys_and_measures(tmp_path):
    """But for the text world, which trains language models: test_text_world.py runs its quick form."""
    for name, table in study_tables().items():
        if name == "text-world":
            continue
        assert main([name, "--quick", "--seeds", "1", "--output", str(tmp_path)]) == 0
        rows = pq.read_table(tmp_path / f"{name}-quick.parquet").to_pylist()
        summary = pq.read_table(tmp_path / f"{name}-quick-summary.parquet").to_pylist()
        assert {*table.by, *table.measures, "seed"} <= set(rows[0]), name
        assert {*table.by, *table.measures} <= set(summary[0]), name
        assert len({tuple(row[key] for key in table.by) for row in rows}) == len(rows), name


@pytest.mark.slow
def test_two_processes_write_the_rows_of_one(tmp_path):
    folders = {jobs: tmp_path / str(jobs) for jobs in (1, 2)}
    for jobs, folder in folders.items():
        arguments = ["--quick", "--seeds", "3", "--jobs", str(jobs), "--output", str(folder)]
        assert main(["table3", *arguments]) == 0
    one, two = (pq.read_table(folder / "table3-quick.parquet").to_pylist() for folder in folders.values())
    assert one == two


def test_the_command_is_read_before_any_library_that_reads_the_environment():
    """How threads wait, and whether the Hub answers, must be settled before."""
    program = (
        "import sys, sgpo_research.command; print({'torch', 'huggingface_hub', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("before", [None, "3"])
def test_each_process_has_one_thread_and_this_one_keeps_its_own(monkeypatch, before):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if before is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", before)
    with one_thread_each(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    assert os.environ.get("OMP_NUM_THREADS") == before


@pytest.mark.slow
def test_what_a_process_refuses_is_told_once_and_leaves_no_seed(capsys, tmp_path):
    arguments = ["--quick", "--seeds", "2", "--jobs", "2", "--data", str(tmp_path / "none"), "--output", str(tmp_path)]
    assert main(["table1", *arguments]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.parquet"))
