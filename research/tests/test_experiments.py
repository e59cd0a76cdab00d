"""The fast tables: regimes behave as their names say, and rows hold what they claim."""

import numpy as np
import pytest

from array_worlds import write_preferences
from sgpo.errors import InputError
from sgpo.robust.paper import solve_worst_case
from sgpo_research import experiments
from sgpo_research.cells import Cell, cells
from sgpo_research.follower_time import groups, tangents
from sgpo_research.methods import DEFAULT, METHODS, PLAIN
from sgpo_research.simulation.leader import Trials
from sgpo_research.simulation.rounds import Simulation
from sgpo_research.worlds.arrays import judge
from sgpo_research.worlds.noise import NO_NOISE

MIDDLING = Trials(np.array([0.03]), np.array([np.nan]))


def gold_by_round(regime, seeds):
    """(S, rounds) gold win rates of plain self-annotation at a middling learning rate."""
    cell, rates = Cell(regime, NO_NOISE), []
    for seed in seeds:
        world = cell.draw(seed, quick=False)
        stages = Simulation(world, METHODS[PLAIN], MIDDLING, cell.training, seed).run()
        rates.append([judge(world.test, stage.theta).win_rate[0] for stage in stages])
    return np.array(rates)


def test_plain_self_annotation_rises_in_the_benign_regime():
    rates = gold_by_round("benign", range(3)).mean(0)
    assert rates[0] > 0.55
    assert rates[-1] > rates[0] + 0.1
    assert rates[-1] > 0.75


@pytest.mark.parametrize("regime", ["derailing", "spurious"])
def test_plain_self_annotation_falls_below_the_sft_policy_in_the_others(regime):
    rates = gold_by_round(regime, range(3))
    assert (rates[:, -1] < 0.45).all()
    assert rates[:, -1].mean() < 0.35
    assert (np.diff(rates.mean(0)) < 0).all()


def test_quick_tables_have_every_cell_and_real_preferences_where_they_are_given(tmp_path):
    data = write_preferences(tmp_path)
    names = ("world", "noise", "method", "round", "step", "rule", "choice")
    for table in ("main_results", "worst_case_over_worlds", "flipped_seeds", "rounds", "radius", "seed_choice"):
        rows = getattr(experiments, table)(0, True, data)
        assert {"real", "benign"} <= {row["world"] for row in rows}, table
        assert all(0 <= row["win_rate"] <= 1 for row in rows), table
        keys = [tuple(row.get(name) for name in names) for row in rows]
        assert len(set(keys)) == len(keys), table


def test_the_same_seed_gives_the_same_rows():
    assert experiments.rounds(1, True) == experiments.rounds(1, True)


def test_a_radius_of_zero_is_iterative_dpo():
    plain = {row["world"]: row["win_rate"] for row in experiments.main_results(2, True) if row["method"] == PLAIN}
    zero = [row for row in experiments.radius(2, True) if row["rule"] == "0"]
    assert len(zero) == 4
    assert all(row["win_rate"] == plain[row["world"]] for row in zero)


def test_follower_times_are_of_answers_that_agree():
    rows = groups(0, True)
    by = {(row["solver"], row["tangents"], row["group"]): row for row in rows}
    assert by["highs", 6, "100"]["value"] == pytest.approx(by["exact", 6, "100"]["value"], abs=1e-7)
    assert by["exact", 6, "100"]["value"] <= by["exact", 6, "all"]["value"] + 1e-12
    assert by["slsqp", 6, "all"]["pairs"] == 20
    assert all(row["seconds"] > 0 for row in rows)


def test_k_changes_the_surrogate_and_hardly_the_policy():
    rates = {(row["world"], row["tangents"]): row["win_rate"] for row in tangents(0, True)}
    assert len(rates) == 6
    gaps = np.linspace(0, 1, 20)
    values = [solve_worst_case(gaps, 0.01, space="probability", tangents=k).value for k in (5, 6, 7)]
    assert len(set(values)) == 3


def test_the_worst_cell_of_a_method_is_found_by_its_mean():
    rows = [
        {"seed": seed, "method": method, "world": world, "noise": "none", "win_rate": rate + 0.1 * seed}
        for seed in range(2)
        for method, world, rate in (("a", "x", 0.4), ("a", "y", 0.3), ("b", "x", 0.5), ("b", "y", 0.1))
    ]
    worst = experiments.worst_cells(rows)
    assert [(row["method"], row["world"]) for row in worst] == [("a", "y"), ("b", "y")]
    assert [row["win_rate"] for row in worst] == pytest.approx([0.35, 0.15])


def test_real_cells_need_their_data():
    assert "real" not in {cell.world for cell in cells()}
    with pytest.raises(InputError, match="holds neither"):
        Cell("real", NO_NOISE, "/nowhere").draw(0, quick=True)


def test_tables_1_and_5_are_parts_of_the_worst_case_to_the_digit():
    whole = experiments.worst_case_over_worlds(3, True)
    for rows, where in (
        (experiments.main_results(3, True), experiments.main_cells(None)),
        (experiments.flipped_seeds(3, True), experiments.flipped_cells(None)),
    ):
        assert experiments.part_of_worst_case(whole, where) == rows
    assert experiments.part_of_worst_case(whole[:4], experiments.main_cells(None)) is None


def test_the_rounds_of_the_default_end_with_what_it_ships():
    rows = [row for row in experiments.rounds(1, True) if row["method"] == DEFAULT]
    for world in experiments.TABLE_WORLDS:
        mine = [row for row in rows if row["world"] == world]
        assert [row["round"] for row in mine] == list(range(len(mine)))
        final = next(
            row for row in experiments.main_results(1, True) if (row["world"], row["method"]) == (world, DEFAULT)
        )
        assert mine[-1]["win_rate"] == final["win_rate"]
