import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from refusals import unrefused
from sgpo.errors import InputError
from sgpo.preferences.farthest import farthest_points
from sgpo.preferences.layout import prompt_key, to_pairs
from sgpo.preferences.source import load_pairs, load_prompts, load_rows
from sgpo.preferences.split import split_pairs
from sgpo.preferences.split_files import check_split, hash_rows, write_split


def make_pairs(names):
    rows = [{"prompt": f"{name}?", "chosen": "a", "rejected": "b", "id": i} for i, name in enumerate(names)]
    return to_pairs(Dataset.from_list(rows), "pairs")


PAIRS = make_pairs(range(60))
EMBEDDINGS = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
SIZES = {"seeds": 8, "pools": [10, 20], "heldout": 5}


def keys(dataset):
    return [prompt_key(prompt) for prompt in dataset["prompt"]]


@settings(deadline=None, max_examples=40)
@given(
    names=st.lists(st.sampled_from([*range(15), "why", "  WHY", "how", "How"]), min_size=3, max_size=30),
    sizes=st.tuples(st.integers(1, 3), st.lists(st.integers(1, 3), max_size=2), st.integers(0, 3)),
    seed=st.integers(0, 50),
    farthest=st.booleans(),
)
def test_no_prompt_is_in_two_parts_or_twice_in_one(names, sizes, seed, farthest):
    seeds, pools, heldout = sizes
    pairs, distinct = make_pairs(names), {str(name).strip().lower() for name in names}
    options = {"selection": "farthest", "embeddings": EMBEDDINGS[: len(pairs)]} if farthest else {}
    wanted = seeds + sum(pools) + heldout
    if wanted > len(distinct):
        with pytest.raises(InputError, match=f"{wanted} prompts are asked for .*{len(distinct)} distinct ones"):
            split_pairs(pairs, seeds=seeds, pools=pools, heldout=heldout, seed=seed, **options)
        return
    split = split_pairs(pairs, seeds=seeds, pools=pools, heldout=heldout, seed=seed, **options)
    parts = [split.seeds, *split.pools, split.heldout]
    assert [len(part) for part in parts] == [seeds, *pools, heldout]
    assert len({key for part in parts for key in keys(part)}) == wanted
    assert split.notes["duplicate_prompts"] == len(pairs) - len(distinct)
    assert split.notes["unused"] == len(distinct) - wanted


def test_seeds_and_held_out_pairs_are_pairs_and_pools_are_prompts_only():
    split = split_pairs(PAIRS, **SIZES)
    for part in (split.seeds, split.heldout):
        assert part[:] == PAIRS.select(part["id"])[:]
    assert [pool.column_names for pool in split.pools] == [["prompt"], ["prompt"]]


def test_the_seed_decides_every_part():
    first, again, other = (split_pairs(PAIRS, **SIZES, seed=seed) for seed in (3, 3, 4))
    for name in ("seeds", "heldout"):
        assert getattr(first, name)[:] == getattr(again, name)[:] != getattr(other, name)[:]
    assert first.pools[1][:] == again.pools[1][:] != other.pools[1][:]


def test_held_out_pairs_do_not_depend_on_the_other_parts():
    plain = split_pairs(PAIRS, **SIZES)
    other = split_pairs(PAIRS, seeds=20, pools=[3], heldout=5, selection="farthest", embeddings=EMBEDDINGS)
    assert plain.heldout[:] == other.heldout[:]


def test_fewer_seeds_are_the_first_of_more():
    for options in ({}, {"selection": "farthest", "embeddings": EMBEDDINGS}):
        few, many = (split_pairs(PAIRS, seeds=n, pools=[], heldout=5, **options).seeds["id"][:] for n in (6, 20))
        assert few == many[:6]


def test_every_prompt_is_in_every_part_equally_often():
    counts = np.zeros((3, 60))
    for seed in range(150):
        split = split_pairs(PAIRS, seeds=20, pools=[20], heldout=20, seed=seed)
        pool = [int(prompt[0]["content"][:-1]) for prompt in split.pools[0]["prompt"]]
        for part, rows in enumerate([split.seeds["id"][:], pool, split.heldout["id"][:]]):
            counts[part, rows] += 1
    # Binomial(150, 1/3): mean 50, standard deviation 5.8.
    assert np.abs(counts - 50).max() < 4.5 * 5.8


def test_farthest_seeds_cover_all_but_the_held_out_prompts():
    split = split_pairs(PAIRS, **SIZES, seed=2, selection="farthest", embeddings=EMBEDDINGS)
    held = np.array(split.heldout["id"])
    found = farthest_points(EMBEDDINGS, 8, seed=2, exclude=held)
    assert split.seeds["id"][:] == found.rows.tolist()
    assert split.notes["coverage_radius"] == found.radius
    assert len({key for part in (split.seeds, *split.pools, split.heldout) for key in keys(part)}) == 43
    unit = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    distance = (1 - unit @ unit[found.rows].T).min(axis=1)
    assert found.radius == pytest.approx(np.delete(distance, held).max(), abs=1e-6)


def test_farthest_points_cover_better_than_points_at_random():
    spread = [farthest_points(EMBEDDINGS, 12, seed=s).radius for s in range(5)]
    random = np.random.default_rng(0)
    unit = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    by_chance = [(1 - unit @ unit[random.permutation(60)[:12]].T).min(axis=1).max() for _ in range(5)]
    assert max(spread) < min(by_chance)


BAD = [
    ({"seeds": 0}, "the number of seeds is 0"),
    ({"pools": [3, 0]}, "the pools have 3, 0 prompts"),
    ({"heldout": -1}, "the number of held-out pairs is -1"),
    ({"seed": -1}, "seed is -1"),
    ({"selection": "nearest"}, "selection is 'nearest'; allowed: 'random' or 'farthest'"),
    ({"selection": "farthest"}, "selection is 'farthest' without embeddings"),
    ({"embeddings": EMBEDDINGS}, "selection is 'random' with embeddings"),
    ({"selection": "farthest", "embeddings": EMBEDDINGS[:9]}, "embeddings has 9 rows"),
    ({"pools": [1000, 50]}, r"1,063 prompts are asked for \(5 held out, 8 seeds, pools of 1,000, 50\)"),
]


def test_bad_arguments_are_refused():
    assert unrefused(lambda case: split_pairs(PAIRS, **{**SIZES, **case}), BAD) == {}


def test_a_written_split_holds_its_parts(tmp_path):
    split = split_pairs(PAIRS, **SIZES)
    content = write_split(split, tmp_path / "split", notes={"sources": ["mine"]})
    folder = tmp_path / "split"
    assert sorted(file.name for file in folder.iterdir()) == sorted([*content["files"], "split.json"])
    assert load_pairs(folder / "seeds.parquet")[:] == split.seeds[:]
    assert load_pairs(folder / "heldout.parquet")[:] == split.heldout[:]
    for number in (1, 2):
        assert load_prompts(folder / f"pool-{number}.parquet")[:] == split.pools[number - 1][:]
    assert json.loads((folder / "split.json").read_text()) == content
    assert content["sources"] == ["mine"] and content["selection"] == "random" and content["unused"] == 17
    assert [file["rows"] for file in content["files"].values()] == [8, 10, 20, 5]
    assert check_split(folder) == content


def test_the_same_split_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_split(split_pairs(PAIRS, **SIZES), tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_hash_identifies_the_rows_and_not_the_file(tmp_path):
    rows = Dataset.from_list([{"b": 1, "a": "é"}, {"b": 2, "a": None}])
    rows.to_parquet(tmp_path / "plain.parquet")
    pq.write_table(rows.select_columns(["a", "b"]).data.table, tmp_path / "packed.parquet", compression="gzip")
    # printf '{"a":"é","b":1}\n{"a":null,"b":2}\n' | sha256sum
    expected = "dbf5a84ff5b444eab70783fcdb5cd5f1cf286e1c2dca37dbb1761bebadee9011"
    assert hash_rows(rows) == expected
    for name in ("plain", "packed"):
        assert hash_rows(load_rows(tmp_path / f"{name}.parquet")) == expected
    assert hash_rows(rows.select([1, 0])) != expected


def test_a_file_that_was_changed_is_found(tmp_path):
    write_split(split_pairs(PAIRS, **SIZES), tmp_path / "split")
    pool = tmp_path / "split" / "pool-2.parquet"
    load_prompts(pool).select(range(19)).to_parquet(pool)
    with pytest.raises(InputError, match=r"pool-2\.parquet has other rows than split\.json says"):
        check_split(tmp_path / "split")
    pool.unlink()
    with pytest.raises(InputError, match=r"pool-2\.parquet' does not exist"):
        check_split(tmp_path / "split")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "split.json").write_text('{"files": ["seeds.parquet"]}')
    cases = [(tmp_path, r"split\.json cannot be read: No such file"), (tmp_path / "other", "lacks the hashes")]
    assert unrefused(check_split, cases) == {}


def test_nothing_is_overwritten(tmp_path):
    split = split_pairs(PAIRS, **SIZES)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="file is a file; allowed: an empty folder"):
        write_split(split, tmp_path / "file")
    with pytest.raises(InputError, match="full is not empty; allowed: an empty folder"):
        write_split(split, tmp_path / "full")
    write_split(split, tmp_path / "empty")
    assert check_split(tmp_path / "empty")["files"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(self, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Dataset, "to_parquet", fail)
    with pytest.raises(OSError, match="No space left"):
        write_split(split_pairs(PAIRS, **SIZES), tmp_path / "split")
    assert list(tmp_path.iterdir()) == []
