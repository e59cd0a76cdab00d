"""The tables and figures of the study, by name."""

from functools import partial
from pathlib import Path

from sgpo.study import experiments, follower_time
from sgpo.study.tables import StudyTable
from sgpo.study.text_world import text_world_rows
from sgpo.study.theory.claims import convergence, regret_under_shift, value_lost

_BY_METHOD = ("world", "noise", "method")


def study_tables(data: Path | None = None) -> dict[str, StudyTable]:
    """All tables by name.

    Args:
        data: folder of real preferences (`sgpo.study.worlds.real_preferences`), a further world; None leaves it out.
    """
    found = [*_fast_tables(data), *_theory_tables(), _text_table()]
    return {table.name: table for table in found}


def _fast_tables(data: Path | None) -> list[StudyTable]:
    def table(name, title, seeds, rows, by, measures=("win_rate",)) -> StudyTable:
        run = partial(rows, data=data)
        return StudyTable(name, title, seeds, 1, lambda seed, quick, folder: run(seed, quick), by, measures)

    return [
        table("table1", "Every method, tuned alike (Tables 1 and 2)", 40, experiments.main_results, _BY_METHOD),
        table(
            "table3", "The radius, and the rules that find one (Table 3)", 40, experiments.radius,
            ("world", "step", "rule"), ("win_rate", "radius_used"),
        ),
        StudyTable(
            "table4", "The follower by solver, K and group size (Table 4)", 5, 1,
            lambda seed, quick, folder: follower_time.groups(seed, quick),
            ("solver", "tangents", "group"), ("seconds", "value", "price"),
        ),
        table("table5", "A quarter of the labels turned round (Table 5)", 40, experiments.flipped_seeds, _BY_METHOD),
        table(
            "figure2", "Gold after each round (Figure 2)", 40, experiments.rounds, ("world", "method", "round"),
            ("win_rate", "kl", "agreement"),
        ),
        table(
            "seeds", "Seeds by farthest points against random ones", 40, experiments.seed_choice,
            ("world", "choice", "method"),
        ),
        table(
            "worst-case", "Every method in every world with every noise", 40, experiments.worst_case_over_worlds,
            _BY_METHOD,
        ),
    ]  # fmt: skip


def _theory_tables() -> list[StudyTable]:
    return [
        StudyTable(
            "theory-value", "Value lost to the worst law in the ball, and its bound (finite game)", 100, 5,
            lambda seed, quick, folder: value_lost(seed), ("radius", "leader"), ("lost", "bound"),
        ),
        StudyTable(
            "theory-regret", "Largest regret under a shift, DPO and SGPO with radius 0.1 (finite game)", 50, 3,
            lambda seed, quick, folder: regret_under_shift(seed, starts=2 if quick else 6), ("shift",),
            ("dpo", "sgpo", "bound"),
        ),
        StudyTable(
            "theory-rate", "Distance to the equilibrium, step by step (finite game)", 20, 2,
            lambda seed, quick, folder: convergence(seed), ("path", "iteration"), ("log10_distance",),
        ),
    ]  # fmt: skip


def _text_table() -> StudyTable:
    return StudyTable(
        "text-world", "The real loop in the text world, benign and derailing", 5, 1, text_world_rows,
        ("regime", "method", "round"), ("win_rate", "kl", "agreement"),
    )  # fmt: skip
