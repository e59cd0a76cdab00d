"""A shard is whole or absent, and a stage's shards are one dataset or an error that says which folder to remove."""

import resource
from contextlib import contextmanager

import pytest
from datasets import Features, List, Value

from sgpo.errors import InputError
from sgpo.store.files import replacing
from sgpo.store.stages import Shards

FEATURES = Features({"text": Value("string"), "scores": List(Value("float64"))})
ABOUT = {"model": "abc", "max_length": 128}


def rows(first, count):
    return {
        "text": [f"row {index} ä\n" for index in range(first, first + count)],
        "scores": [[index / 3, -0.0, float("inf")][: index % 3 + 1] for index in range(first, first + count)],
    }


@pytest.fixture
def shards(tmp_path):
    return Shards(tmp_path / "stage", FEATURES)


def test_shards_come_back_in_order_whatever_order_they_were_written_in(shards):
    for index, first, count in ((2, 5, 1), (0, 0, 3), (1, 3, 2)):
        shards.write(index, rows(first, count), notes={}, about=ABOUT)
    dataset, _, about = shards.read(3)
    assert dataset.to_dict() == rows(0, 6)
    assert dataset.features == FEATURES
    assert about == ABOUT


def test_a_shard_of_no_rows_keeps_its_place(shards):
    shards.write(0, rows(0, 2), notes={"scored": 2}, about=ABOUT)
    shards.write(1, {"text": [], "scores": []}, notes={"scored": 0}, about=ABOUT)
    assert shards.missing(3) == [2]
    dataset, notes, _ = shards.read(2)
    assert dataset.to_dict() == rows(0, 2)
    assert notes == {"scored": 2}


def test_notes_add_up_and_a_zero_stays_a_zero(shards):
    for index, notes in enumerate(({"asked": 3, "ties": 0}, {"asked": 4, "ties": 0}, {"asked": 0, "lost": 1})):
        shards.write(index, rows(index, 1), notes=notes, about=ABOUT)
    assert shards.read(3)[1] == {"asked": 7, "ties": 0, "lost": 1}


def test_missing_names_what_is_not_whole(shards):
    assert shards.missing(3) == [0, 1, 2]
    shards.write(1, rows(0, 1), notes={}, about=ABOUT)
    (shards.folder / ".00002.arrow.partial").write_bytes(b"half")
    assert shards.missing(3) == [0, 2]


@contextmanager
def on_a_full_disk(path):
    with replacing(path) as partial:
        partial.symlink_to("/dev/full")
        yield partial


def test_a_full_disk_leaves_no_shard_and_keeps_those_that_were_written(shards, monkeypatch):
    """The kernel itself says that no space is left: what is written goes to /dev/full."""
    shards.write(0, rows(0, 2), notes={}, about=ABOUT)
    before = (shards.folder / "00000.arrow").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr("sgpo.store.stages.replacing", on_a_full_disk)
        shards.write(1, rows(2, 2), notes={}, about=ABOUT)
    assert [path.name for path in shards.folder.iterdir()] == ["00000.arrow"]
    assert (shards.folder / "00000.arrow").read_bytes() == before
    shards.write(1, rows(2, 2), notes={}, about=ABOUT)
    assert shards.read(2)[0].to_dict() == rows(0, 4)


def test_a_limit_met_in_the_middle_of_a_shard_leaves_none_of_it(shards):
    """Some of the shard's bytes are on disk by then."""
    big = {"text": ["x" * 1000] * 100, "scores": [[0.5]] * 100}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            shards.write(0, big, notes={}, about=ABOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(shards.folder.iterdir()) == []
    shards.write(0, big, notes={}, about=ABOUT)
    assert shards.read(1)[0].to_dict() == big


def test_an_interrupt_while_a_shard_is_put_in_place_leaves_none(shards, monkeypatch):
    def interrupt(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("sgpo.store.files.os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        shards.write(0, rows(0, 1), notes={}, about=ABOUT)
    assert list(shards.folder.iterdir()) == []


def test_shards_made_with_different_things_are_refused_and_their_folder_is_named(shards):
    shards.write(0, rows(0, 1), notes={}, about=ABOUT)
    shards.write(1, rows(1, 1), notes={}, about={**ABOUT, "model": "xyz"})
    with pytest.raises(InputError) as refusal:
        shards.read(2)
    for part in ("00001.arrow", "'xyz'", "'abc'", f"Remove {shards.folder} to make them again"):
        assert part in str(refusal.value)
