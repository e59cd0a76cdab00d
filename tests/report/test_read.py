import copy
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from report.fake_run import as_older_run
from sgpo.errors import InputError
from sgpo.report.build import write_report
from sgpo.report.read import read_run


def test_a_finished_run_comes_back_as_it_was_written(run):
    record = read_run(run.write())
    assert [metrics.model_dump(mode="json", exclude_unset=True) for metrics in record.rounds] == run.metrics
    assert record.config == run.config
    assert record.seed_pairs == 120
    assert record.missing_rounds == []
    assert [sample.model_dump() for sample in record.samples[3]["gold"]] == run.samples["gold"]
    stored = pq.read_table(run.root / "round-2" / "worst_case.parquet").to_pydict()
    for name in ("point", "moved"):
        np.testing.assert_array_equal(getattr(record.gaps[2], name), stored[name])


def test_seeds_are_counted_in_what_datasets_saved(run):
    root = run.write()
    (root / "seed/pairs/data-00000-of-00001.arrow").unlink()
    datasets.Dataset.from_dict({"source": ["human"] * 30}).save_to_disk(root / "seed/pairs", num_shards=3)
    assert read_run(root).seed_pairs == 30


def test_an_older_run_has_the_same_page(run):
    """Its gold block is an evaluation of that name, and its samples lie in the round's folder."""
    page = write_report(run.write()).read_text(encoding="utf-8")
    older = copy.deepcopy(run)
    older.root = run.root.parents[1] / "older" / run.root.name
    for metrics in older.metrics:
        as_older_run(metrics)
    assert write_report(older.write()).read_text(encoding="utf-8") == page
    assert not list(older.root.rglob("evaluations"))
    (gold,) = read_run(older.root).rounds[2].evaluations.values()
    assert (gold.kind, gold.value, gold.count, gold.tokens, gold.kl) == ("reward", 0.703, 300, 24.1, 2.204)


def test_an_older_gold_block_stands_next_to_other_evaluations(run):
    arena = {"kind": "judge", "value": 0.6, "low": 0.5, "high": 0.7, "count": 80}
    for metrics in run.metrics:
        as_older_run(metrics)
        metrics["evaluations"] = {"arena": arena}
    assert list(read_run(run.write()).rounds[1].evaluations) == ["gold", "arena"]


def test_an_unfinished_run_names_its_missing_rounds(run):
    del run.metrics[2:]
    record = read_run(run.write())
    assert record.missing_rounds == [2, 3]
    assert [metrics.round for metrics in record.rounds] == [0, 1]


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere holds no run"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
def test_a_directory_that_is_no_run_is_refused_by_its_missing_file(run, name):
    root = run.write()
    (root / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        read_run(root)


DAMAGES = {
    "config that is no YAML": ("config.yaml", "rounds: [1", r"config\.yaml: not valid YAML"),
    "config without a key": ("config.yaml", "rounds: 3\nseed: 0\n", r"config\.yaml: follower: Field required; allowed"),
    "cut manifest": ("manifest.json", '{"sgpo":\n "0.1', r"manifest\.json line 2: not valid JSON"),
    "manifest that is a list": ("manifest.json", "[]", r"manifest\.json holds a list"),
    "a stage without its seconds": (
        "manifest.json",
        '{"stages": {"seed/pairs": {}}}',
        r"manifest\.json: stages\.seed/pairs\.seconds: Field required",
    ),
    "metrics cut in line 3": (
        "round-1/metrics.json",
        '{"round": 1,\n"name": "x",\n"heldout"',
        r"round-1/metrics.json line 3",
    ),
    "metrics with NaN": (
        "round-1/metrics.json",
        '{"round": 1, "name": "x", "heldout": {"accuracy": NaN}}',
        r"round-1/metrics.json: heldout\.accuracy is NaN",
    ),
    "metrics of another round": ("round-1/metrics.json", '{"round": 2, "name": "x"}', r"round is 2; allowed: 1"),
    "a word for a number": (
        "round-1/metrics.json",
        '{"round": 1, "name": "x", "evaluations": {"arena": {"kind": "judge", "value": "high"}}}',
        r'round-1/metrics.json: evaluations\.arena\.value is "high"',
    ),
    "a word for a number of an older run": (
        "round-1/metrics.json",
        '{"round": 1, "name": "x", "gold": {"kl": "far"}}',
        r'round-1/metrics.json: evaluations\.gold\.kl is "far"',
    ),
    "a number for the gold block of an older run": (
        "round-1/metrics.json",
        '{"round": 1, "name": "x", "gold": 3}',
        r"round-1/metrics.json: evaluations\.gold is 3",
    ),
    "a list of evaluations": (
        "round-1/metrics.json",
        '{"round": 1, "name": "x", "evaluations": [1]}',
        r"round-1/metrics.json: evaluations is \[1\]",
    ),
    "an evaluation without a kind": (
        "round-1/metrics.json",
        '{"round": 1, "name": "x", "evaluations": {"arena": {"value": 0.5}}}',
        r"round-1/metrics.json: evaluations\.arena\.kind: Field required",
    ),
    "a decision without its pairs": (
        "round-1/metrics.json",
        '{"round": 1, "name": "x", "decision": {"place": 0, "radius": 0.1, "accepted": true, "tried": []}}',
        r"round-1/metrics.json: decision\.pairs: Field required",
    ),
    "a window of one end": (
        "round-1/metrics.json",
        '{"round": 1, "name": "x", "follower": {"window": [0]}}',
        r"follower\.window\.1: Field required",
    ),
    "samples cut in line 2": (
        "round-3/evaluations/gold/samples.jsonl",
        json.dumps({"prompt": "", "response": "", "baseline": "", "reward": 1, "baseline_reward": 1}) + "\n{",
        r"samples\.jsonl line 2: not valid JSON",
    ),
    "a sample without a reward": (
        "round-3/evaluations/gold/samples.jsonl",
        json.dumps({"prompt": "", "response": "", "baseline": ""}),
        r"samples\.jsonl line 1: reward: Field required",
    ),
    "gaps that are no Parquet": (
        "round-2/worst_case.parquet",
        "PAR?",
        r"worst_case\.parquet: cannot be read as numbers",
    ),
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
        ({"point": [0.5]}, "no column 'moved'"),
        ({"point": [0.5, np.nan], "moved": [0.0, 0.0]}, "row 1: point is nan"),
        ({"point": ["wide"], "moved": [0.0]}, "cannot be read as numbers"),
    ],
)
def test_gaps_of_another_shape_are_refused_by_column_and_row(run, columns, message):
    root = run.write()
    pq.write_table(pa.table(columns), root / "round-1" / "worst_case.parquet")
    with pytest.raises(InputError, match=message):
        read_run(root)


def test_unusual_separators_and_lone_surrogates_in_a_response_survive(run):
    run.samples["gold"][0]["response"] = "one\u2028two\x85three"
    root = run.write()
    path = root / "round-3" / "evaluations" / "gold" / "samples.jsonl"
    rows = [*run.samples["gold"], {**run.samples["gold"][1], "response": "half \ud83d pair"}]
    path.write_text("".join(json.dumps(row, ensure_ascii=row is rows[-1]) + "\n" for row in rows))
    responses = [sample.response for sample in read_run(root).samples[3]["gold"]]
    assert responses == ["one\u2028two\x85three", run.samples["gold"][1]["response"], "half ? pair"]
