"""No file makes a reader fail otherwise than by one InputError that names it; `fuzz.campaign` reads more of them."""

import pytest

from fuzz.campaign import FILES, bounded_memory, check, spread
from fuzz.readers import READERS


@pytest.mark.parametrize(("reader", "count"), spread(FILES), ids=[reader.name for reader in READERS])
def test_a_mutated_file_is_read_or_refused_by_name(reader, count, tmp_path):
    with bounded_memory():
        failures = list(check(reader, range(count), tmp_path / "files"))
    shown = "\n\n".join(f"file {failure.number}: {failure.kind}\n{failure.detail}" for failure in failures)
    assert not failures, shown


@pytest.mark.parametrize("reader", READERS, ids=[reader.name for reader in READERS])
def test_the_file_before_its_mutations_is_read_and_used(reader, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "scratch").mkdir()
    reader.use(reader.read(reader.write(tmp_path / "home")), tmp_path / "scratch")
