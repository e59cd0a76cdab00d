"""The worst case of a round as a file: what it holds, and that nothing is lost on the way."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.robust import solve_worst_case
from sgpo.rounds.training import read_summary, read_worst_cases, write_worst_case

RNG = np.random.default_rng(0)
ARRAYS = ("moved", "points")
NUMBERS = ("value", "empirical_value", "price", "moved_share", "marginal", "radius")
OPTIONS = {
    "probability": {},
    "margin": {"space": "margin", "tangents": 0, "window": [-4.0, 4.0]},
    "quantiles": {"space": "margin", "tangents": 3, "window_rule": "quantiles", "window_margin": 0.1},
    "groups": {"group_size": 15},
    "programs": {"solver": "highs", "group_size": 20},
}


def pairs_of(gaps, sources=None):
    """Pairs with these gaps at beta = 0.1."""
    zeros = np.zeros(len(gaps))
    columns = {
        "chosen_logps": 10 * gaps,
        "rejected_logps": zeros,
        "ref_chosen_logps": zeros,
        "ref_rejected_logps": zeros,
    }
    return Dataset.from_dict({**columns, "source": sources or ["self"] * len(gaps)})


def arguments(tmp_path, **changes):
    return SGPOConfig(str(tmp_path / "leader"), **{"beta": 0.1, "use_cpu": True, "bf16": False, "seed": 5, **changes})


@pytest.fixture
def gaps():
    return RNG.normal(0.3, 1.0, 60)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_answer_comes_back_as_it_was_solved(tmp_path, gaps, name):
    args, pairs = arguments(tmp_path, radius=0.05, **OPTIONS[name]), pairs_of(gaps)
    write_worst_case(pairs, args, tmp_path / "file")
    (found,) = read_worst_cases(tmp_path / "file", pairs["source"]).values()
    solved = solve_worst_case(
        np.array(pairs["chosen_logps"]) * 0.1,
        0.05,
        solver=args.solver,
        group_size=args.group_size,
        seed=args.seed,
        space=args.space,
        window=found.window,
        tangents=args.tangents or None,
        clip=True,
    )
    for key in NUMBERS:
        assert getattr(found, key) == pytest.approx(getattr(solved, key), rel=1e-12, abs=1e-15), key
    if args.group_size is None:
        assert found.full_radius == pytest.approx(solved.full_radius)
    for key in ARRAYS:
        np.testing.assert_array_equal(getattr(found, key), getattr(solved, key), err_msg=key)
    grid = np.linspace(*found.window, 50)[1:]
    np.testing.assert_array_equal(found.link.value(grid), solved.link.value(grid))
    assert (found.space, found.window, found.weights, found.raised) == (solved.space, solved.window, None, None)


def test_each_source_has_its_own_answer_and_one_without_a_radius_none(tmp_path, gaps):
    sources = ["human"] * 20 + ["self"] * 40
    pairs = pairs_of(gaps, sources)
    args = arguments(tmp_path, source_radius={"human": 0.0, "self": 0.05})
    write_worst_case(pairs, args, tmp_path / "file")
    found = read_worst_cases(tmp_path / "file", sources)
    alone = solve_worst_case(gaps[20:], 0.05, space="probability", tangents=6)
    assert list(found) == ["self"]
    np.testing.assert_allclose(found["self"].moved, alone.moved, atol=1e-12)
    assert found["self"].price == pytest.approx(alone.price)


def test_plain_dpo_has_no_answer(tmp_path, gaps):
    write_worst_case(pairs_of(gaps), arguments(tmp_path, radius=0.0), tmp_path / "file")
    assert read_worst_cases(tmp_path / "file", ["self"] * 60) == {}
    assert read_summary(tmp_path / "file")["value"] == pytest.approx(np.logaddexp(0, -gaps).mean())


def test_a_source_without_an_entry_is_refused_by_row(tmp_path, gaps):
    """By the rule that the trainer has for its dataset."""
    args = arguments(tmp_path, source_radius={"human": 0.0})
    with pytest.raises(InputError, match=r"the round's dataset row 20: source is 'self'; allowed: 'human'"):
        write_worst_case(pairs_of(gaps, ["human"] * 20 + ["self"] * 40), args, tmp_path / "file")


@pytest.mark.parametrize("recent", [40, 60, 100])
def test_every_pair_has_a_moved_share_also_outside_the_running_window(tmp_path, gaps, recent):
    args = arguments(tmp_path, radius=0.05, schedule="step", recent_pairs=recent)
    write_worst_case(pairs_of(gaps), args, tmp_path / "file")
    table, summary = pq.read_table(tmp_path / "file").to_pydict(), read_summary(tmp_path / "file")
    moved, points = np.array(table["moved"]), np.array(table["point"])
    assert summary["pairs"] == min(recent, 60)
    assert 0 < moved.mean() < 1
    # The follower moves the lowest gaps, whole pairs but for the marginal one.
    assert (moved[points < summary["marginal"]] == 1).all()
    assert (moved[points > summary["marginal"]] == 0).all()
    if recent >= 60:
        whole = solve_worst_case(gaps, 0.05, space="probability", tangents=6)
        np.testing.assert_allclose(moved, whole.moved, atol=1e-12)


def test_a_file_that_was_cut_or_changed_is_named_with_what_to_do(tmp_path, gaps):
    write_worst_case(pairs_of(gaps), arguments(tmp_path, radius=0.05), tmp_path / "file")
    whole = (tmp_path / "file").read_bytes()
    table = pq.read_table(tmp_path / "file")
    foreign = [table.replace_schema_metadata(None), table.drop_columns(["moved"])]
    for number, one in enumerate(foreign):
        pq.write_table(one, tmp_path / str(number))
    damaged = [whole[: len(whole) // 2], whole[:-4], b"", *((tmp_path / str(one)).read_bytes() for one in (0, 1))]
    for content in damaged:
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(InputError, match=r"file is damaged \(.*\); remove it to make it again"):
            read_worst_cases(tmp_path / "file", ["self"] * len(gaps))
