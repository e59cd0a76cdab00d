"""`sgpo eval alpaca --annotations`: the raw win rate always, and beside each other number what a reader has to know."""

import gzip
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from evaluate.alpaca_files import annotation_rows, gamed_rows, write_annotations, write_gamed
from sgpo.cli import main
from sgpo.errors import InputError
from sgpo.evaluate.alpaca import Instructions, read_annotations
from sgpo.evaluate.gamed import read_gamed
from sgpo.evaluate.length_control import LengthControlled, RawWinRate, _remarks, length_controlled_win_rate

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("SGPO_REAL_ANNOTATIONS", ROOT.parent / "shared" / "data" / "alpaca-annotations"))


@pytest.fixture(scope="module")
def gamed(tmp_path_factory):
    return write_gamed(tmp_path_factory.mktemp("gamed") / "df_gamed.csv")


def rows_of(preferences, lengths, baseline_lengths):
    names = {"generator_1": "base", "generator_2": "mine", "annotator": "someone"}
    columns = zip(preferences, lengths, baseline_lengths, strict=True)
    return [
        {"instruction": f"Question {row}", "output_1": "v" * base, "output_2": "w" * own, "preference": one, **names}
        for row, (one, own, base) in enumerate(columns)
    ]


def report(capsys, tmp_path, rows, *flags, code=0):
    path = write_annotations(tmp_path / "annotations.json", rows)
    assert main(["eval", "alpaca", "--annotations", str(path), "--json", *map(str, flags)]) == code
    printed = capsys.readouterr()
    if code:
        return printed.err
    result = json.loads(printed.out)
    assert printed.err.splitlines() == [f"Note: {remark}" for remark in result["remarks"]]
    return result


def write_set(path, rows):
    path.write_text(json.dumps([{"instruction": row["instruction"]} for row in rows]))
    return path


VARIED = np.random.default_rng(0).integers(10, 900, size=(2, 60))
# Each with the raw win rate that is there, and the reason why there is no other.
UNCONTROLLED = {
    "three rows": (rows_of([1.0, 2.0, 1.0], [20, 27, 33], [30, 35, 40]), 100 / 3, "1.0 wins and 2.0 losses"),
    "one row": (rows_of([2.0], [20], [30]), 100, "1.0 wins and 0.0 losses"),
    "the same difference": (rows_of([1.0, 2.0] * 10, [40] * 20, [30] * 20), 50, "differ from baseline_lengths by 10"),
    "wins alone": (rows_of([2.0] * 60, *VARIED), 100, "60.0 wins and 0.0 losses"),
    "losses alone": (rows_of([1.0] * 60, *VARIED), 0, "0.0 wins and 60.0 losses"),
    "few wins among many rows": (rows_of([1.01] * 60, *VARIED), 1, "0.6 wins and 59.4 losses"),
    "answers that are all much longer": (
        rows_of([1.0, 2.0] * 30, VARIED[0] + 3000, VARIED[1]),
        50,
        "a standard error of .* points; allowed: at most 25",
    ),
}


@pytest.mark.parametrize("case", UNCONTROLLED)
def test_the_raw_win_rate_is_there_where_the_other_is_not(case, tmp_path, capsys):
    rows, rate, reason = UNCONTROLLED[case]
    result = report(capsys, tmp_path, rows)
    assert result["raw"]["win_rate"] == pytest.approx(rate)
    assert result["length_controlled"] == {"minimal": None}
    [said] = [remark for remark in result["remarks"] if remark.startswith("No length-controlled (minimal) win rate: ")]
    with pytest.raises(InputError, match=reason):
        raise InputError(said)
    # The same for a person: the table, then the remarks.
    assert main(["eval", "alpaca", "--annotations", str(tmp_path / "annotations.json")]) == 0
    printed = capsys.readouterr()
    assert f"raw {rate:.2f}" in " ".join(printed.out.split()) and f"Note: {said}" in printed.out


def test_without_scikit_learn_the_raw_win_rate_is_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = report(capsys, tmp_path, annotation_rows("even_long_soft", count=60))
    assert result["raw"]["win_rate"] > 0
    assert result["length_controlled"] == {"minimal": None}
    assert "pip install 'sgpo[alpaca]'" in result["remarks"][0]


def test_too_few_judgments_give_no_number_at_any_size():
    """Of a judge who gives the policy 8%: with few judgments the penalty alone makes the number."""
    rng, refused = np.random.default_rng(0), {10: 0, 20: 0, 400: 0}
    for count in refused:
        for _ in range(10):
            lengths, baseline = rng.integers(10, 900, size=(2, count))
            try:
                found = length_controlled_win_rate((rng.random(count) < 0.08).astype(float), lengths, baseline)
            except InputError:
                refused[count] += 1
            else:
                assert found.win_rate == pytest.approx(8, abs=6)
    assert refused == {10: 10, 20: 10, 400: 0}


def test_the_minimal_number_is_never_shown_as_the_leaderboards(tmp_path, capsys, gamed):
    result = report(capsys, tmp_path, annotation_rows("even_same_hard"), "--difficulty", gamed)
    [said] = result["remarks"]
    assert said.startswith("The length-controlled (minimal) win rate is not the leaderboard's")
    assert "6.5 points higher on average and up to 27" in said


def remarks_on(raw, controlled, model="full"):
    rates = RawWinRate(raw, 1.0, raw, 400, 405, 0, 0)
    return _remarks(LengthControlled(controlled, 1.0, 0.1, model, {"length": 1.0, "policy": 1.0}, 1.0), rates)


def test_a_large_change_is_remarked_on_where_alpaca_eval_warns():
    # By its rule: more than 10 points, and more than a quarter of the way to 0 or to 100.
    for raw, low, high in [(50, 37.5, 62.5), (20, 10, 40), (8, -2, 31), (92, 69, 102), (60, 45, 70)]:
        for inside in (max(low, 0), min(high, 100), raw):
            assert not remarks_on(raw, inside), (raw, inside)
        for outside in (low - 0.1, high + 0.1):
            if 0 <= outside <= 100:
                [said] = remarks_on(raw, outside)
                assert f"very different from the raw one, {outside:.1f}% against {raw:.1f}%" in said


def test_a_number_on_few_wins_says_so(tmp_path, capsys, gamed):
    wins = np.where(np.arange(200) % 12 == 0, 2.0, 1.0)
    lengths, baseline = np.random.default_rng(1).integers(10, 900, size=(2, 200))
    result = report(capsys, tmp_path, rows_of(wins.tolist(), lengths, baseline))
    assert result["length_controlled"]["minimal"]["win_rate"] < 20
    assert "rests on 17.0 wins, and its coefficients need 20" in result["remarks"][-1]


LACKING = (3, 100, 500)


def lacking():
    """A file of 802 rows whose preferences follow the difficulty, the places of its rows, and the whole set."""
    whole = annotation_rows("weak_short_soft")
    for row, difficulty in zip(whole, gamed_rows()[:805], strict=True):
        row["preference"] = 1 + float(expit(-1.5 - 3 * difficulty["instruction_difficulty"]))
    places = [place for place in range(805) if place not in LACKING]
    return [whole[place] for place in places], np.array(places), whole


def control(rows, gamed, places):
    preferences = np.array([row["preference"] for row in rows]) - 1
    lengths, baseline = ([len(row[f"output_{side}"]) for row in rows] for side in (2, 1))
    return length_controlled_win_rate(preferences, lengths, baseline, gamed=read_gamed(gamed), places=places)


def test_a_file_that_lacks_rows_has_a_full_number_by_instruction_or_by_row(tmp_path, capsys, gamed):
    rows, places, whole = lacking()
    given = ["--difficulty", gamed, "--instructions", write_set(tmp_path / "set.json", whole)]
    by_instruction = report(capsys, tmp_path, rows, *given)
    assert by_instruction["length_controlled"]["full"]["win_rate"] == control(rows, gamed, places).win_rate
    assert by_instruction["remarks"][0].startswith("3 instructions of the set have no row: 3, 100, 500 (from 0)")
    shifted = control(rows, gamed, np.arange(802)).win_rate
    for flags in (given, given[:2]):
        by_row = report(capsys, tmp_path, rows, *flags, "--by-row")
        assert by_row["length_controlled"]["full"]["win_rate"] == shifted
        assert any("Difficulties are found by row number" in remark for remark in by_row["remarks"])
    # Only the place finds the difficulty that the judge went by.
    found = {"instruction": by_instruction, "row": by_row}
    effects = {name: one["length_controlled"]["full"]["coefficients"]["difficulty"] for name, one in found.items()}
    assert effects["instruction"] < -1.5 and abs(effects["row"]) < 0.5


def test_without_places_the_full_number_is_null_and_names_the_flags(tmp_path, capsys, gamed):
    result = report(capsys, tmp_path, lacking()[0], "--difficulty", gamed)
    assert result["length_controlled"]["minimal"]["win_rate"] > 0 and result["length_controlled"]["full"] is None
    [said] = [remark for remark in result["remarks"] if remark.startswith("No length-controlled (full) win rate")]
    assert "802 rows" in said and "--instructions" in said and "--by-row" in said


def test_difficulties_of_another_set_are_not_used(tmp_path, capsys, gamed):
    """The places of a smaller set would all be found in the difficulty file, and be wrong."""
    rows = annotation_rows("even_long_soft", count=300)
    given = ["--difficulty", gamed, "--instructions", write_set(tmp_path / "set.json", rows)]
    result = report(capsys, tmp_path, rows, *given)
    assert result["length_controlled"]["full"] is None and result["length_controlled"]["minimal"]["win_rate"] > 0
    assert "the set has 300 instructions and the difficulty file 805" in result["remarks"][-1]


def test_a_set_may_lack_one_instruction_in_a_hundred(tmp_path):
    rows = annotation_rows("even_long_soft", count=200)
    asked = Instructions([row["instruction"] for row in rows], ["x"] * 200)
    assert read_annotations(write_annotations(tmp_path / "a.json", rows[2:]), asked=asked).missing == [0, 1]
    with pytest.raises(InputError, match=r"lacks 3 of 200 instructions .*; allowed: all of them, or all but 2"):
        read_annotations(write_annotations(tmp_path / "a.json", rows[3:]), asked=asked)


def test_by_row_needs_the_difficulties_that_it_is_about(tmp_path, capsys):
    said = report(capsys, tmp_path, annotation_rows("even_long_soft", count=20), "--by-row", code=2)
    assert "--by-row goes with --difficulty, which is missing" in said


# Each with what it is as a share of the win in both codings; None is refused.
CODED = {
    "wins and losses from 0": ([0, 1, 1, 0], "ask", [0, 1, 1, 0]),
    "floats from 0": ([0.0, 1.0, None, 1.0], "ask", [0, 1, None, 1]),
    "draws alone": ([0, 0, None, 0], "ask", [0, 0, None, 0]),
    "soft from 0": ([0.2, 0.9, 0.5, 1.0], None, [0.2, 0.9, 0.5, 1.0]),
    "alpaca_eval's": ([1.0, 2.0, 0, 1.25], [0, 1, 0.5, 0.25], None),
    "alpaca_eval's without draws": ([1, 2, 2, None], [0, 1, 1, None], None),
    "ones": ([1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]),
}


@pytest.mark.parametrize("case", CODED)
def test_a_coding_that_could_be_either_is_asked_for(case, tmp_path):
    preferences, alpacas, shares = CODED[case]
    path = write_annotations(tmp_path / "a.json", rows_of(preferences, [3, 5, 7, 9], [9, 7, 5, 3]))

    def read(coding):
        try:
            found = read_annotations(path, coding=coding).preferences
        except InputError as error:
            assert "--coding" in str(error) or coding
            return "ask" if "none of the file is above 1" in str(error) else None
        return [None if np.isnan(one) else one for one in found.tolist()]

    assert read(None) == alpacas
    assert read("0-1") == shares
    if alpacas == "ask":
        expected = {0: 0.5, 1: 0, None: None}
        assert read("1-2") == [expected[one] for one in preferences]


def test_the_coding_is_a_flag_and_losses_alone_are_remarked_on(tmp_path, capsys):
    rows = rows_of([1] * 60, *VARIED)
    assert "check how the file codes preferences" in report(capsys, tmp_path, rows)["remarks"][0]
    won = report(capsys, tmp_path, rows, "--coding", "0-1")
    assert won["raw"]["win_rate"] == 100 and "codes preferences" not in "".join(won["remarks"])
    said = report(capsys, tmp_path, rows_of([1, 0] * 30, *VARIED), code=2)
    assert "row 1: 'preference' is 0" in said and said.count("\n") == 1
    with pytest.raises(InputError, match=r"coding is '1\.\.2'; allowed: '1-2' or '0-1'"):
        read_annotations(tmp_path / "annotations.json", coding="1..2")


def published(name):
    return json.loads(gzip.decompress((REAL / f"{name}.annotations.json.gz").read_bytes()))


needs_published = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"needs published annotations; set SGPO_REAL_ANNOTATIONS (looked in {REAL})"
)


@needs_published
def test_published_annotations_have_the_leaderboards_raw_win_rate(tmp_path, capsys, gamed):
    rates = {"text_davinci_001": 2.764005231, "gemma-2b-it": 3.401971438, "NullModel": 76.919791804}
    given = ["--difficulty", gamed, "--instructions", write_set(tmp_path / "set.json", published("NullModel"))]
    for name, rate in rates.items():
        result = report(capsys, tmp_path, published(name), *given)
        assert result["raw"]["win_rate"] == pytest.approx(rate, abs=1e-8)
        assert all(result["length_controlled"].values())
    result = report(capsys, tmp_path, rows := published("text_davinci_001"), *given)
    assert result["remarks"][0].startswith("2 instructions of the set have no row: 247, 504")
    # The first forty rows hold less than one win: the minimal model made 50 +- 65 points of them.
    first = report(capsys, tmp_path, rows[:40])
    assert first["length_controlled"] == {"minimal": None} and first["raw"]["win_rate"] == pytest.approx(
        1.523, abs=1e-3
    )


@needs_published
def test_the_order_in_which_a_judge_sees_the_answers_decides_what_docs_say_it_does():
    """The judge's first token is m for the answer shown first and M for the second."""
    shares = {"first": [], "second": []}
    for row in published("gemma-2b-it"):
        tokens = row["raw_completion"]["logprobs"]["content"][0]["top_logprobs"]
        odds = {one["token"]: np.exp(one["logprob"]) for one in tokens}
        front, share = odds.get("m", 0) / (odds.get("m", 0) + odds.get("M", 0)), row["preference"] - 1
        shares["first" if abs(front - share) < abs(1 - front - share) else "second"].append(share)
    found = {place: (len(values), round(float(np.mean(values)), 3)) for place, values in shares.items()}
    assert found == {"first": (406, 0.016), "second": (399, 0.052)}
