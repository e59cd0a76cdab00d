import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from refusals import unrefused
from sgpo.errors import InputError
from sgpo.preferences.source import load_pairs, load_prompts, load_rows
from ultrafeedback import write_ultrafeedback

ROWS = [{"prompt": f"{i}?", "chosen": f"yes {i}", "rejected": f"nö {i} 🌉", "score": i + 0.5} for i in range(5)]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_jsonl(folder):
    (folder / "a.jsonl").write_text(lines(ROWS), encoding="utf-8")
    return folder / "a.jsonl"


def write_gzip(folder):
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode()))
    return folder / "a.jsonl.gz"


def write_windows_jsonl(folder):
    text = "\ufeff" + lines(ROWS).replace("\n", "\r\n") + "\r\n"
    (folder / "a.jsonl").write_bytes(text.encode())
    return folder / "a.jsonl"


def write_json(folder):
    (folder / "a.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    return folder / "a.json"


def write_parquet(folder):
    Dataset.from_list(ROWS).to_parquet(folder / "a.parquet")
    return folder / "a.parquet"


def write_arrow_file(folder):
    table = Dataset.from_list(ROWS).data.table
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return folder / "a.arrow"


def write_arrow_stream(folder):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return folder / "a.arrow"


def write_saved(folder):
    Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return folder / "saved"


def write_saved_splits(folder):
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:2])).save_to_disk(folder / "saved")
    return folder / "saved"


def write_folder_of_one_file(folder):
    write_gzip(folder)
    (folder / "README.md").write_text("# Data")
    return folder


def write_hub_layout(folder):
    """The layout of a dataset repository: one file per split, as the Hub holds it."""
    (folder / "data").mkdir()
    Dataset.from_list(ROWS).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    Dataset.from_list(ROWS[:2]).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


WRITERS = [
    write_jsonl,
    write_gzip,
    write_windows_jsonl,
    write_json,
    write_parquet,
    write_arrow_file,
    write_arrow_stream,
    write_saved,
    write_saved_splits,
    write_folder_of_one_file,
    write_hub_layout,
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_every_source_gives_the_rows_that_were_written(tmp_path):
    for write in WRITERS:
        folder = tmp_path / write.__name__
        folder.mkdir()
        place = write(folder)
        assert load_rows(place)[:] == load_rows(str(place))[:] == COLUMNS, write.__name__


@pytest.mark.parametrize("write", [write_saved_splits, write_hub_layout])
def test_a_split_is_the_one_asked_for(write, tmp_path):
    assert len(load_rows(write(tmp_path), split="test")) == 2


@pytest.mark.parametrize("write", [write_saved_splits, write_hub_layout])
def test_an_unknown_split_is_refused_with_those_there_are(write, tmp_path):
    with pytest.raises(InputError, match=r"dev.*train.*test"):
        load_rows(write(tmp_path), split="dev")


@pytest.mark.parametrize("write", [write_jsonl, write_saved])
def test_a_split_of_a_source_without_splits_is_refused(write, tmp_path):
    with pytest.raises(InputError, match=r"split is 'train', but .*; allowed: no split"):
        load_rows(write(tmp_path), split="train")


def test_columns_that_the_first_row_lacks_are_kept(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": "b", "score": 1}\n{"prompt": "c", "score": 2.5}\n')
    assert load_rows(file)[:] == {"prompt": ["a", "b", "c"], "score": [None, 1.0, 2.5]}


def test_pairs_and_prompts_of_one_file(tmp_path):
    file = write_jsonl(tmp_path)
    prompts = [[{"role": "user", "content": f"{i}?"}] for i in range(5)]
    assert load_pairs(file)["prompt"][:] == load_prompts(file)["prompt"][:] == prompts
    assert load_prompts(file).column_names == ["prompt", "score"]


def test_a_bad_pair_is_named_with_its_file(tmp_path):
    file = tmp_path / "seeds.jsonl"
    file.write_text(lines([ROWS[0], {**ROWS[1], "rejected": ROWS[1]["chosen"]}]))
    with pytest.raises(InputError, match=r"seeds\.jsonl line 2: chosen and rejected are equal"):
        load_pairs(file)


BAD_FILES = {
    "broken line": ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl line 2: not valid JSON: .*column"),
    "broken line after blanks": ("a.jsonl", b'{"a": 1}\n\n\n{"a"}\n', r"a\.jsonl line 4: not valid JSON"),
    "not UTF-8": ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl line 2: not valid UTF-8 \(byte 7\)"),
    "no object": ("a.jsonl", b'{"a": 1}\n[1]\n', r"a\.jsonl line 2: a list; allowed: a JSON object"),
    "no rows": ("a.jsonl", b"\n\n", r"a\.jsonl has no rows"),
    "truncated gzip": ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999)[:30], r"a\.jsonl\.gz cannot be read"),
    "not gzip": ("a.jsonl.gz", b'{"a": 1}\n', r"a\.jsonl\.gz cannot be read: Not a gzipped file"),
    "broken Arrow": ("a.arrow", b"ARROW1\0\0 and then nothing", r"a\.arrow is not a readable Arrow file"),
    "broken JSON": ("a.json", b'[{"a": 1},\n {]', r"a\.json line 2: not valid JSON"),
    "JSON not UTF-8": ("a.json", b"\xff\xfe", r"a\.json: not valid UTF-8"),
    "JSON object": ("a.json", b'{"a": 1}', r"a\.json holds a dict; allowed: a list of JSON objects"),
    "JSON numbers": ("a.json", b"[1]", r"a\.json row 0: a int; allowed: a JSON object"),
    "broken Parquet": ("a.parquet", b"PAR1 and then nothing", r"a\.parquet is not a readable Parquet file"),
    "unknown type": ("a.csv", b"a,b\n", r"a\.csv has an unknown file type; allowed: \.jsonl"),
}


def test_a_bad_file_is_named_with_the_place(tmp_path):
    def load(name):
        file, content, _ = BAD_FILES[name]
        (tmp_path / file).write_bytes(content)
        load_rows(tmp_path / file)

    assert unrefused(load, [(name, message) for name, (_, _, message) in BAD_FILES.items()]) == {}


def test_a_source_that_is_not_there_is_refused():
    missing = ["./nothing", "nothing.jsonl", "a/b/c", "", Path("nothing")]
    cases = [(path, r"does not exist; allowed: a file \(\.jsonl") for path in missing]
    offline = ("nobody/has-this", r"'nobody/has-this' .Hugging Face Hub id.* cannot be loaded")
    assert unrefused(load_rows, [*cases, offline]) == {}


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no dataset"):
        load_rows(tmp_path)


def test_an_incomplete_saved_folder_is_refused(tmp_path):
    folder = write_saved(tmp_path)
    next(folder.glob("*.arrow")).unlink()
    with pytest.raises(InputError, match="saved is not a complete dataset"):
        load_rows(folder)


def test_real_preferences_load_in_the_ultrafeedback_layout():
    default = Path(__file__).parents[2].parent / "shared" / "data" / "gpt4-preferences"
    folder = Path(os.environ.get("SGPO_REAL_PREFERENCES", default))
    if not folder.is_dir():
        pytest.skip(f"no real preferences at {folder}; set SGPO_REAL_PREFERENCES")
    raw, pairs = load_rows(folder / "pairs.jsonl.gz"), load_pairs(folder / "pairs.jsonl.gz")
    assert len(pairs) == 2044
    assert [row[0]["content"] for row in pairs["prompt"]] == raw["prompt"][:]
    assert [row[0]["content"] for row in pairs["chosen"]] == [row[-1]["content"] for row in raw["chosen"]]
    assert pairs.column_names == ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"]
    assert len(load_prompts(folder / "responses.jsonl.gz")) == 6991


def raw_text_table(column):
    """A table whose second row is not UTF-8, as a writer that does not look leaves it."""
    raw = pa.array([b"ok?", b"b\xffd", b"fine?"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    prompts = text if column == "text" else pa.ListArray.from_arrays([0, 1, 2, 3], text)
    return pa.table({"prompt": prompts})


def write_bad_parquet(folder, table):
    pq.write_table(table, folder / "a.parquet")
    return folder / "a.parquet"


def write_bad_arrow(folder, table):
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return folder / "a.arrow"


def write_bad_hub_layout(folder, table):
    (folder / "data").mkdir()
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("write", [write_bad_parquet, write_bad_arrow, write_bad_hub_layout])
@pytest.mark.parametrize("column", ["text", "list of texts"])
def test_a_row_of_a_table_that_is_not_utf8_is_named(write, column, tmp_path):
    place = write(tmp_path, raw_text_table(column))
    with pytest.raises(InputError, match="row 1: not valid UTF-8") as caught:
        load_rows(place)
    assert str(place) in str(caught.value)


def test_escaped_pairs_of_surrogates_are_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "\\ud83c\\udf09"}\n')
    assert load_rows(tmp_path / "a.jsonl")["prompt"][:] == ["🌉"]


def test_a_local_copy_of_ultrafeedback_loads_as_pairs_and_as_prompts(tmp_path):
    folder = write_ultrafeedback(tmp_path, 6)
    pairs = load_pairs(folder)
    assert pairs[5]["prompt"] == [{"role": "user", "content": "Question 5?"}]
    assert pairs[5]["chosen"] == [{"role": "assistant", "content": "Right 5."}]
    assert pairs[5]["rejected"] == [{"role": "assistant", "content": "Wrong 5."}]
    others = ["source", "chosen-rating", "chosen-model", "rejected-rating", "rejected-model"]
    assert pairs.column_names == ["prompt", "chosen", "rejected", *others]
    assert load_prompts(folder)["prompt"][:] == pairs["prompt"][:]


def test_a_local_copy_that_lacks_rows_of_its_card_is_refused(tmp_path):
    folder = write_ultrafeedback(tmp_path, 6, promised=60917)
    with pytest.raises(InputError, match="is incomplete: its card promises 60917 rows and its files hold 6"):
        load_rows(folder)
