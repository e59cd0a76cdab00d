import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sgpo.errors import InputError
from sgpo.report.read import number, read_run


def test_a_finished_run_comes_back_as_it_was_written(run):
    record = read_run(run.write())
    assert record.rounds == run.metrics
    assert record.config == run.config
    assert record.seed_pairs == 120
    assert record.missing_rounds == []
    assert record.samples[3] == run.samples
    stored = pq.read_table(run.root / "round-2" / "worst_case.parquet").to_pydict()
    for name in ("gap", "point", "moved"):
        np.testing.assert_array_equal(getattr(record.gaps[2], name), stored[name])


def test_seeds_are_counted_in_what_datasets_saved(run):
    root = run.write()
    (root / "seed/pairs/data-00000-of-00001.arrow").unlink()
    datasets.Dataset.from_dict({"source": ["human"] * 30}).save_to_disk(root / "seed/pairs", num_shards=3)
    assert read_run(root).seed_pairs == 30


def test_a_number_that_is_absent_or_null_reads_as_none():
    assert number({"gold": {"kl": None}}, "gold.kl") is None
    assert number({"gold": None}, "gold.kl") is None
    assert number({}, "gold.kl") is None
    assert number({"gold": {"kl": 0.0}}, "gold.kl") == 0.0


def test_an_unfinished_run_names_its_missing_rounds(run):
    del run.metrics[2:]
    record = read_run(run.write())
    assert record.missing_rounds == [2, 3]
    assert [metrics["round"] for metrics in record.rounds] == [0, 1]


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such directory"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
def test_a_directory_that_is_no_run_is_refused_by_its_missing_file(run, name):
    root = run.write()
    (root / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        read_run(root)


DAMAGES = {
    "config that is no YAML": ("config.yaml", "rounds: [1", r"config\.yaml: damaged YAML"),
    "config without a key": ("config.yaml", "rounds: 3\nseed: 0\n", r"config\.yaml: no key follower\.radius"),
    "cut manifest": ("manifest.json", '{"sgpo":\n "0.1', r"manifest\.json, line 2: damaged JSON"),
    "manifest that is a list": ("manifest.json", "[]", r"manifest\.json, line 1: holds a list"),
    "metrics cut in line 3": (
        "round-1/metrics.json",
        '{"round": 1,\n"name": "x",\n"gold"',
        r"round-1/metrics.json, line 3",
    ),
    "metrics with NaN": ("round-1/metrics.json", '{"round": NaN}', r"round-1/metrics.json, line 1: holds NaN"),
    "metrics of another round": ("round-1/metrics.json", '{"round": 2, "name": "x"}', r"round is 2; allowed: 1"),
    "a word for a number": (
        "round-1/metrics.json",
        '{"round": 1, "name": "x", "gold": {"kl": "far"}}',
        r"round-1/metrics.json: gold\.kl is 'far'",
    ),
    "a window of one end": (
        "round-1/metrics.json",
        '{"round": 1, "name": "x", "follower": {"window": [0]}}',
        r"follower\.window is \[0\]",
    ),
    "samples cut in line 2": (
        "round-3/samples.jsonl",
        json.dumps({"prompt": "", "response": "", "baseline": "", "reward": 1, "baseline_reward": 1}) + "\n{",
        r"samples\.jsonl, line 2: damaged JSON",
    ),
    "a sample without a reward": (
        "round-3/samples.jsonl",
        json.dumps({"prompt": "", "response": "", "baseline": ""}),
        r"samples\.jsonl, line 1: reward is None; allowed: a float",
    ),
    "gaps that are no Parquet": ("round-2/worst_case.parquet", "PAR?", r"worst_case\.parquet: damaged Parquet"),
    "pairs that are no Arrow": ("seed/pairs/data-00000-of-00001.arrow", "no", r"\.arrow: damaged Arrow"),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_named_in_one_line(run, name, content, message):
    root = run.write()
    (root / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_run(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"gap": [0.1], "point": [0.5]}, "no column moved"),
        ({"gap": [0.1, np.nan], "point": [0.5, 0.5], "moved": [0.0, 0.0]}, "row 1: gap is nan"),
        ({"gap": ["wide"], "point": [0.5], "moved": [0.0]}, "damaged Parquet"),
    ],
)
def test_gaps_of_another_shape_are_refused_by_column_and_row(run, columns, message):
    root = run.write()
    pq.write_table(pa.table(columns), root / "round-1" / "worst_case.parquet")
    with pytest.raises(InputError, match=message):
        read_run(root)


def test_unusual_separators_and_lone_surrogates_in_a_response_survive(run):
    run.samples[0]["response"] = "one\u2028two\x85three"
    root = run.write()
    path = root / "round-3" / "samples.jsonl"
    rows = [*run.samples, {**run.samples[1], "response": "half \ud83d pair"}]
    path.write_text("".join(json.dumps(row, ensure_ascii=row is rows[-1]) + "\n" for row in rows))
    responses = [sample["response"] for sample in read_run(root).samples[3]]
    assert responses == ["one\u2028two\x85three", run.samples[1]["response"], "half ? pair"]
