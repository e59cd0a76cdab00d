"""No file makes a reader fail otherwise than by one InputError that names it; `fuzz.campaign` reads more of them."""

import pytest

from fuzz.campaign import FILES, bounded_memory, check, spread
from fuzz.readers import READERS

# Readers that still fail, with the file to mend, and those of them that end the process.
KNOWN = {
    "pairs.jsonl": "preferences/source.py",
    "prompts.parquet": "preferences/source.py",
    "saved dataset_info.json": "preferences/layout.py",
    "gaps.npy": "cli/gaps_file.py",
    "stored config.yaml": "store/run_dir.py",
    "chat_template.jinja": "policy/tokens.py",
    "tokenizer_config.json": "policy/tokens.py",
    "generation_config.json": "policy/served.py",
    "shards": "store/stages.py",
    "worst_case.parquet": "rounds/worst_case.py",
    "run config.yaml": "report/read.py",
    "run manifest.json": "report/build.py",
}
CRASHING = ("file.arrow", "talks.arrow", "saved *.arrow")


@pytest.mark.parametrize(("reader", "count"), spread(FILES), ids=[reader.name for reader in READERS])
def test_a_mutated_file_is_read_or_refused_by_name(reader, count, tmp_path):
    if reader.name in CRASHING:
        pytest.skip("a damaged Arrow file ends the process: preferences/source.py")
    with bounded_memory():
        failures = list(check(reader, range(count), tmp_path / "files"))
    shown = "\n\n".join(f"file {failure.number}: {failure.kind}\n{failure.detail}" for failure in failures)
    assert bool(failures) == (reader.name in KNOWN), shown


@pytest.mark.parametrize("reader", READERS, ids=[reader.name for reader in READERS])
def test_the_file_before_its_mutations_is_read_and_used(reader, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "scratch").mkdir()
    reader.use(reader.read(reader.write(tmp_path / "home")), tmp_path / "scratch")
