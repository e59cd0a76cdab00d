"""Real preferences as a world, on synthetic rows of the same layout."""

import gzip
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from array_worlds import write_preferences
from sgpo.errors import InputError
from sgpo_research.worlds.real_preferences import RealSettings, load_candidates, real_world
from sgpo_research.worlds.seed_choice import SeedChoice
from sgpo_research.worlds.text_features import BUCKETS, NAMES, prompt_features, text_features


def read(folder):
    return [json.loads(line) for line in gzip.decompress((folder / "responses.jsonl.gz").read_bytes()).splitlines()]


def write(folder, rows):
    (folder / "responses.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


ROW = {"prompt": "Why?", "response": "Because.", "generator": "a", "win_probability": 0.25}


def test_gold_is_the_log_odds_and_the_reference_answers_with_each_response_alike(tmp_path):
    write(tmp_path, [
        ROW, {**ROW, "response": "Or not.", "win_probability": 0.0},
        {**ROW, "response": "Cheat", "generator": "NullModel"},
        {**ROW, "response": "Because."}, {**ROW, "prompt": "How?", "response": "Alone."},
    ])  # fmt: skip
    candidates = load_candidates(tmp_path)
    np.testing.assert_allclose(candidates.gold, [[math.log(1 / 3), math.log(1e-5 / (1 - 1e-5))]])
    np.testing.assert_allclose(candidates.log_ref, [[-math.log(2)] * 2])


def test_prompts_with_fewer_responses_are_padded_with_what_never_is_answered(tmp_path):
    rows = read(write_preferences(tmp_path))
    (tmp_path / "responses.jsonl.gz").unlink()
    write(tmp_path, rows[2:])
    candidates = load_candidates(tmp_path)
    assert np.isinf(candidates.log_ref[0]).sum() == 2
    np.testing.assert_allclose(np.exp(candidates.log_ref).sum(1), 1.0)
    there = np.isfinite(candidates.log_ref)
    np.testing.assert_allclose(candidates.features[there].mean(0), 0, atol=1e-5)


def test_no_prompt_is_in_two_parts_and_seeds_may_be_chosen(tmp_path):
    candidates = load_candidates(write_preferences(tmp_path))
    # A prompt's gold rewards know it again.
    settings = RealSettings()
    for choice in (SeedChoice("random", 1), SeedChoice("farthest", 1)):
        world = real_world(candidates, settings, 0, choice=choice)
        parts = [*world.pools, world.test]
        golds = [tuple(row) for part in parts for row in part.gold.tolist()]
        assert len(golds) == len(set(golds)) == 24 - len(world.seeds.prompts) - len(set(world.held_out.prompts))
        assert len(world.held_out.prompts) == 4 * 4
    test = real_world(candidates, settings, 0, choice=SeedChoice("random", 2)).test
    np.testing.assert_array_equal(test.gold, world.test.gold)
    assert (real_world(candidates, settings, 1).test.gold != world.test.gold).any()


def test_labels_follow_the_real_probabilities(tmp_path):
    candidates = load_candidates(write_preferences(tmp_path, prompts=400))
    world = real_world(candidates, replace(RealSettings(), held_out=0.5, seeds=0.1, pools=0.3), 0)
    assert 0.75 < world.held_out.right.mean() < 0.98


def test_features_count_what_they_say():
    found = dict(
        zip(NAMES, text_features("Name two red fruits", "Sure! I know:\n- red apple\n- 2 plums"), strict=False)
    )
    assert found["log_words"] == pytest.approx(math.log1p(7))
    assert found["bullets"] == pytest.approx(math.log1p(2))
    assert found["digits"] == pytest.approx(1 / 35)
    assert found["exclamations"] == pytest.approx(math.log(2))
    assert found["in_prompt"] == pytest.approx(1 / 7)
    assert found["prompt_covered"] == pytest.approx(1 / 4)
    assert found["first_person"] == pytest.approx(1 / 7)
    assert found["finished"] == found["code"] == found["refusal"] == 0
    assert text_features("", "I'm sorry.")[NAMES.index("refusal")] == 1


def test_features_are_finite_for_any_text_and_the_same_everywhere():
    for text in ("", " ", "?!", "日本語", "a" * 5000):
        assert np.isfinite(text_features(text, text)).all()
    assert text_features("a b", "c d").shape == (len(NAMES) + BUCKETS,)
    # CRC-32 of "c", "d" and "c d", by hand.
    expected = np.zeros(BUCKETS)
    for code in (0x06B9DF6F, 0x98DD4ACC, 0x8B8ADE5C):
        expected[code % BUCKETS] += 1 if code >> 31 else -1
    hashed = prompt_features("c d")[1:] * math.sqrt(3)
    assert np.abs(hashed).sum() == pytest.approx(3)
    np.testing.assert_allclose(text_features("", "c d")[len(NAMES) :] * math.sqrt(3), hashed)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "win_probability": 1.2}, r"line 1: win_probability is 1.2; allowed: a number in \[0, 1\]"),
        ({**ROW, "win_probability": True}, "line 1: win_probability is True"),
        ({**ROW, "response": None}, "line 1: response is None; allowed: a text"),
        ([ROW], "line 1: a list; allowed: a JSON object"),
        (ROW, "has no prompt with two different responses"),
    ],
)
def test_rows_that_are_not_as_they_should_be_are_named(tmp_path, row, message):
    write(tmp_path, [row])
    with pytest.raises(InputError, match=message):
        load_candidates(tmp_path)


def test_a_folder_without_the_file_and_too_few_prompts_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds neither"):
        load_candidates(tmp_path)
    (tmp_path / "responses.jsonl").write_text("{")
    with pytest.raises(InputError, match="line 1: not valid JSON"):
        load_candidates(tmp_path)
    candidates = load_candidates(write_preferences(tmp_path, prompts=3))
    with pytest.raises(InputError, match="3 prompts are divided as"):
        real_world(candidates, RealSettings(), 0)
