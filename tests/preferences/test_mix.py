import json
from collections import Counter

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from refusals import unrefused
from sgpo.config import SourceConfig, validate
from sgpo.errors import InputError
from sgpo.preferences.layout import distinct_rows
from sgpo.preferences.mix import mix_pairs


def source(path, weight=1.0, split=None):
    return validate(SourceConfig, {"path": path, "weight": weight, "split": split}, "source")


def rows(name, count, **others):
    return [{"prompt": f"{name} {i}?", "chosen": f"yes {i}", "rejected": f"no {i}", **others} for i in range(count)]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
        return str(file)

    return write


def test_sources_are_mixed_by_weight_until_one_runs_out(write):
    large, small = write("large", rows("a", 100)), write("small", rows("b", 20))
    mixture = mix_pairs([source(large, 3), source(small, 1)])
    assert Counter(mixture.pairs["origin"]) == {large: 60, small: 20}
    assert [(use.rows, use.usable, use.taken) for use in mixture.uses] == [(100, 100, 60), (20, 20, 20)]
    prompts = [prompt[0]["content"] for prompt in mixture.pairs["prompt"]]
    assert len(set(prompts)) == 80


def test_one_source_is_taken_whole_and_in_order(write):
    mixture = mix_pairs([source(write("a", rows("a", 30)), 0.2)])
    assert [prompt[0]["content"] for prompt in mixture.pairs["prompt"]] == [f"a {i}?" for i in range(30)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0.01, 100)), min_size=1, max_size=5))
def test_no_source_gives_more_than_it_has_or_strays_a_row_from_its_weight(sources):
    from sgpo.preferences.mix import _shares

    usable, weights = [count for count, _ in sources], [weight for _, weight in sources]
    taken = _shares(weights, usable)
    assert all(got <= has for got, has in zip(taken, usable, strict=True))
    for got, weight in zip(taken, weights, strict=True):
        assert abs(got - sum(taken) * weight / sum(weights)) < 1 + 1e-9
    # One more row would be more than some source has.
    assert any((sum(taken) + 1) * w / sum(weights) > has - 1e-9 for w, has in zip(weights, usable, strict=True))


def test_the_seed_decides_which_rows_are_taken(write):
    sources = [source(write("a", rows("a", 200))), source(write("b", rows("b", 20)))]
    first, again, other = (mix_pairs(sources, seed=seed).pairs for seed in (0, 0, 1))
    assert first[:] == again[:]
    assert first["prompt"][:] != other["prompt"][:]


def test_a_prompt_of_two_sources_counts_for_the_first(write):
    first, second = write("first", rows("a", 10)), write("second", [*rows("A ", 4), *rows("b", 10)])
    mixture = mix_pairs([source(first), source(second)])
    assert [use.dropped for use in mixture.uses] == [{}, {"duplicate prompt": 4}]
    assert Counter(mixture.pairs["origin"]) == {first: 10, second: 10}


def test_invalid_rows_are_counted_and_the_counts_add_up(write):
    content = rows("a", 20)
    content[3]["rejected"] = content[3]["chosen"]
    content[4]["prompt"] = " "
    content[5]["prompt"] = "A  6?\n"
    content[7]["prompt"] = "x" * 100_000
    use = mix_pairs([source(write("a", content))], max_prompt_chars=5000).uses[0]
    reasons = ["equal responses", "empty prompt", "prompt too long", "duplicate prompt"]
    assert use.dropped == dict.fromkeys(reasons, 1)
    assert use.rows == sum(use.dropped.values()) + use.usable == 20


def test_a_source_that_runs_out_is_named_with_the_counts(write):
    large, small = write("large", rows("a", 100)), write("small", [*rows("b", 20), *rows("b", 5)])
    message = (
        r"small\.jsonl' runs out: 25 pairs, its share of 100 \(weight 1 of 4\), are needed, and it has 20 .*"
        r"\(25 rows; dropped: 5 duplicate prompts\)"
    )
    with pytest.raises(InputError, match=message):
        mix_pairs([source(large, 3), source(small, 1)], least=100)
    with pytest.raises(InputError, match=r"large\.jsonl' runs out: 101 pairs, are needed, and it has 100"):
        mix_pairs([source(large, 3)], least=101)
    assert len(mix_pairs([source(large, 3), source(small, 1)], least=80).pairs) == 80


def test_columns_are_kept_where_their_types_agree(write):
    a = write("a", rows("a", 3, score=1.5, source="web", id=1))
    b = write("b", rows("b", 3, score=2.5, id="one"))
    mixture = mix_pairs([source(a), source(b)])
    assert mixture.left_out == ["id"]
    assert mixture.pairs["score"][:] == [1.5] * 3 + [2.5] * 3
    assert mixture.pairs["source"][:] == ["web"] * 3 + [None] * 3


def test_an_existing_origin_is_kept(write):
    assert set(mix_pairs([source(write("a", rows("a", 3, origin="wiki")))]).pairs["origin"]) == {"wiki"}
    with pytest.raises(InputError, match="has a column 'origin' of type int64"):
        mix_pairs([source(write("b", rows("b", 3, origin=1)))])


def test_a_source_may_be_named_once_for_each_of_its_splits(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split, count in (("train", 6), ("test", 3)):
        Dataset.from_list(rows(split, count)).to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    folder = str(tmp_path / "set")
    mixture = mix_pairs([source(folder, 2, "train"), source(folder, 1, "test")])
    assert [use.taken for use in mixture.uses] == [6, 3]
    with pytest.raises(InputError, match="is named 2 times"):
        mix_pairs([source(folder), source(folder)])


def test_bad_weights_and_no_sources_are_refused():
    positive, finite = "allowed: .* 0", "allowed: .*finite"
    weights = {0: positive, -1.0: positive, float("nan"): finite, float("inf"): finite}
    cases = [(weight, f"weight is {weight}; {allowed}") for weight, allowed in weights.items()]
    assert unrefused(lambda weight: source("a", weight), cases) == {}
    with pytest.raises(InputError, match="there are no sources"):
        mix_pairs([])


def test_prompts_that_differ_in_white_space_and_case_only_are_equal():
    def user(text):
        return [{"role": "user", "content": text}]

    prompts = [
        user("Why is that?"),
        user(" why  is\nTHAT? "),
        user("Why is this?"),
        [{"role": "system", "content": "Be brief."}, *user("Why is that?")],
        user("Whyisthat?"),
    ]
    assert distinct_rows(prompts).tolist() == [0, 2, 3, 4]
