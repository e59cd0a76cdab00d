"""FastChat's judgment files: repeated judgments, and comparisons of two models as its show_result.py counts them."""

import json

import numpy as np
import pandas as pd
import pytest

from evaluate.test_mt_bench import QUESTIONS, judgment_rows, question_rows, write_lines
from refusals import unrefused
from sgpo.cli import main
from sgpo.errors import InputError
from sgpo.evaluate.mt_judgments import average_judgments, read_judgments, read_pairs
from sgpo.stats.intervals import share_interval

GAMES = [(question.question_id, turn) for question in QUESTIONS for turn in (1, 2)]
WINNERS = ["model_1", "model_2", "tie", "error"]


def pair_rows(*pairs, seed=0, winners=WINNERS):
    rng = np.random.default_rng(seed)
    return [
        {
            "question_id": question_id,
            "model_1": one,
            "model_2": other,
            "g1_winner": str(rng.choice(winners)),
            "g2_winner": str(rng.choice(winners)),
            "judge": ["gpt-4", "pair-v2" + "-multi-turn" * (turn - 1)],
            "g1_user_prompt": "...",
            "g1_judgment": "[[A]]",
            "g2_user_prompt": "...",
            "g2_judgment": "[[B]]",
            "turn": turn,
            "tstamp": 1.5,
        }
        for one, other in pairs
        for question_id, turn in GAMES
    ]


def fastchats(rows, baseline=None):
    """What show_result.py prints for a file: a win where both games name the same model, and else a tie."""
    frame = pd.DataFrame(rows)
    frame = frame[(frame.g1_winner != "error") & (frame.g2_winner != "error")]
    if baseline is not None:
        frame = frame[(frame.model_1 == baseline) | (frame.model_2 == baseline)]
    decided = (frame.g1_winner == frame.g2_winner) & (frame.g1_winner != "tie")
    sides = []
    for own in ("model_1", "model_2"):
        won, lost = decided & (frame.g1_winner == own), decided & (frame.g1_winner != own)
        sides.append(pd.DataFrame({"model": frame[own], "win": won, "loss": lost, "tie": ~decided}))
    counts = pd.concat(sides).groupby("model").sum()
    total = counts.win + counts.loss + counts.tie
    counts["win_rate"] = counts.win / total
    counts["win_rate_adjusted"] = (counts.win + 0.5 * counts.tie) / total
    return counts.drop(index=[baseline], errors="ignore").sort_values("win_rate_adjusted", ascending=False)


@pytest.mark.parametrize("baseline", [None, "base"])
@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_counted_as_fastchat_counts_them(seed, baseline, tmp_path):
    rows = pair_rows(("ours", "base"), ("base", "other"), ("ours", "other"), seed=seed)
    found = read_pairs(write_lines(tmp_path / "gpt-4_pair.jsonl", rows), QUESTIONS, baseline=baseline)
    peer = fastchats(rows, baseline)
    rates = [record["win_rate_adjusted"] for record in found["models"].values()]
    assert set(found["models"]) == set(peer.index) and rates == sorted(rates, reverse=True)
    for name, record in found["models"].items():
        own = peer.loc[name]
        assert (record["wins"], record["losses"], record["ties"]) == (own.win, own.loss, own.tie)
        assert (record["win_rate"], record["win_rate_adjusted"]) == pytest.approx((own.win_rate, own.win_rate_adjusted))
        games = [row for row in rows if {name, baseline or name} <= {row["model_1"], row["model_2"]}]
        assert record["failed"] == sum("error" in (row["g1_winner"], row["g2_winner"]) for row in games)
        assert record["wins"] + record["ties"] + record["losses"] + record["failed"] == len(games)


def test_which_model_comes_first_does_not_matter(tmp_path):
    rows = pair_rows(("ours", "base"))
    other = {"model_1": "model_2", "model_2": "model_1"}
    turned = [
        row
        | {"model_1": row["model_2"], "model_2": row["model_1"]}
        | {key: other.get(row[key], row[key]) for key in ("g1_winner", "g2_winner")}
        for row in rows
    ]
    one, two = (read_pairs(write_lines(tmp_path / "p.jsonl", file), QUESTIONS)["models"] for file in (rows, turned))
    assert one == two


def test_the_interval_is_over_questions(tmp_path):
    """Twice the same verdict on a question tells as much as once."""
    rows = pair_rows(("ours", "base"))
    for row in rows:
        row["g1_winner"] = row["g2_winner"] = "model_1" if row["question_id"] % 2 else "model_2"
    record = read_pairs(write_lines(tmp_path / "p.jsonl", rows), QUESTIONS, model="ours")["models"]["ours"]
    assert (record["wins"], record["losses"], record["win_rate"]) == (6, 4, 0.6)
    assert (record["low"], record["high"]) == share_interval(np.array([1, 0, 1, 0, 1]))


def test_games_that_all_failed_have_no_rate(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", pair_rows(("ours", "base"), winners=["error"]))
    record = read_pairs(path, QUESTIONS, model="ours")["models"]["ours"]
    assert (record["wins"], record["ties"], record["losses"], record["failed"]) == (0, 0, 0, 10)
    assert np.isnan([record["win_rate"], record["win_rate_adjusted"], record["low"]]).all()


def test_of_repeated_judgments_the_named_one_is_kept(tmp_path):
    rows = judgment_rows([(3, 3)] * 5)[:4] + judgment_rows([(8, 6)] * 5)
    path = write_lines(tmp_path / "gpt-4_single.jsonl", rows)
    with pytest.raises(
        InputError, match=r"line 5: .* \(81, 1\) is that of .*line 1; .* --keep last or first, .* \(repeated rows: 4\)"
    ):
        read_judgments(path, QUESTIONS)
    for keep, mean in (("last", 7.0), ("first", (4 * 3 + 3 * (8 + 6)) / 10)):
        read = read_judgments(path, QUESTIONS, keep=keep)
        assert (average_judgments(read).overall.mean, read.repeated) == (pytest.approx(mean), 4)
    with pytest.raises(InputError, match="keep is 'newest'; allowed: 'first' or 'last'"):
        read_judgments(path, QUESTIONS, keep="newest")


def test_a_pair_that_was_judged_again_the_other_way_round_is_repeated(tmp_path):
    rows = pair_rows(("ours", "base"), winners=["model_1"]) + pair_rows(("base", "ours"), winners=["model_1"])[:2]
    path = write_lines(tmp_path / "p.jsonl", rows)
    with pytest.raises(InputError, match=r"line 11: the models, question and turn .*line 1; .* --keep .*: 2\)"):
        read_pairs(path, QUESTIONS)
    for keep, wins in (("first", 10), ("last", 8)):
        found = read_pairs(path, QUESTIONS, model="ours", keep=keep)
        assert (found["models"]["ours"]["wins"], found["repeated"]) == (wins, 2)


BAD = [
    ({"score": float("nan")}, "line 4: 'score' is nan; allowed: 0 to 10, or -1 for none"),
    ({"score": float("inf")}, "line 4: 'score' is inf"),
    ({"score": -2}, "line 4: 'score' is -2"),
    ({"score": "7"}, "line 4: 'score' is '7'"),
    ({"score": True}, "line 4: 'score' is True"),
    ({"score": [7]}, "line 4: 'score' is"),
    ({"question_id": "82"}, "line 4: 'question_id' is '82'"),
    ({"turn": 2.0}, "line 4: 'turn' is 2.0"),
    ({"model": None}, "line 4: 'model' is None"),
    ({"model": "other"}, "line 4: the model is 'other'"),
    ({"judge": "gpt-4"}, "line 4: 'judge' is 'gpt-4'"),
    ({"judge": []}, "line 4: 'judge' is"),
    ({"judge": ["claude", "single-v1"]}, "line 4: the judge is 'claude'"),
]
BAD_PAIRS = [
    ({"g1_winner": "A"}, "line 4: 'g1_winner' is 'A'; allowed: model_1, model_2, tie, error"),
    ({"g2_winner": None}, "line 4: 'g2_winner' is None"),
    ({"g2_winner": 1}, "line 4: 'g2_winner' is 1"),
    ({"model_2": "ours"}, "line 4: 'model_2' is 'ours'; allowed: another model than model_1"),
    ({"model_1": 3}, "line 4: 'model_1' is 3"),
    ({"model_1": "third"}, "base against ours, lacks turn 2 of question 82; allowed"),
    ({"turn": None}, "line 4: 'turn' is None"),
    ({"question_id": 99}, "line 4: there is no turn 2 of a question 99"),
    ({"judge": ["claude", "pair-v2"]}, "line 4: the judge is 'claude'"),
    ({"turn": 1}, "line 4: the models, question and turn .* is that of .*line 3"),
]


@pytest.mark.parametrize("kind", ["single", "pair"])
def test_a_bad_judgment_ends_in_one_message_that_names_the_line(kind, tmp_path):
    made, read, bad = (judgment_rows(), read_judgments, BAD) if kind == "single" else (
        pair_rows(("ours", "base")), read_pairs, BAD_PAIRS)  # fmt: skip

    def call(change):
        rows = [*made]
        rows[3] = rows[3] | change
        return read(write_lines(tmp_path / "j.jsonl", rows), QUESTIONS)

    assert unrefused(call, bad) == {}


def test_models_that_a_file_of_pairs_lacks_are_named(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", pair_rows(("ours", "base"), ("ours", "other")))
    cases = [
        ({"model": "third"}, "holds no comparison of third; allowed: two of its models"),
        ({"baseline": "gpt-3.5-turbo"}, r"holds no comparison of gpt-3\.5-turbo"),
        ({"model": "base", "baseline": "other"}, "holds no comparison of base with other"),
        ({"model": "ours", "baseline": "ours"}, "holds no comparison of ours with ours"),
    ]
    assert unrefused(lambda options: read_pairs(path, QUESTIONS, **options), cases) == {}


def test_the_command_reads_both_kinds(tmp_path, capsys):
    questions = str(write_lines(tmp_path / "question.jsonl", question_rows()))
    rows = pair_rows(("ours", "base"), ("other", "base"), ("ours", "other"))
    pairs = str(write_lines(tmp_path / "gpt-4_pair.jsonl", rows + rows[:3]))
    single = str(write_lines(tmp_path / "gpt-4_single.jsonl", judgment_rows() + judgment_rows()[:2]))

    def run(path, *flags, code=0):
        assert main(["eval", "mt-bench", "--judgments", path, "--questions", questions, *flags]) == code
        return capsys.readouterr()

    assert "--keep last or first" in run(pairs, code=2).err and "--keep last or first" in run(single, code=2).err
    result = json.loads(run(pairs, "--keep", "first", "--baseline", "base", "--json").out)
    assert (result["kind"], result["judge"], result["repeated"]) == ("mt_bench_pairs", "gpt-4", 3)
    peer = fastchats(rows, "base")
    assert {name: one["wins"] for name, one in result["models"].items()} == peer.win.to_dict()
    table = " ".join(run(pairs, "--keep", "first", "--baseline", "base", "--name", "ours").out.split())
    own = result["models"]["ours"]
    assert f"ours {own['wins']} {own['ties']} {own['losses']} {own['failed']} {own['win_rate']:.3f}" in table
    assert "Against base, judged by gpt-4" in table and "other" not in table
    averages = json.loads(run(single, "--keep", "last", "--json").out)
    assert (averages["kind"], averages["repeated"], averages["overall"]["mean"]) == ("mt_bench", 2, 7.0)
    assert "--baseline goes with comparisons of two models" in run(single, "--baseline", "base", code=2).err
