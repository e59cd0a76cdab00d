"""The tables and figures of the study, by name."""

from pathlib import Path

from sgpo_research.fast_tables import fast_tables
from sgpo_research.figures import rounds, theory
from sgpo_research.tables import StudyTable
from sgpo_research.text_world import text_world_rows
from sgpo_research.theory.claims import convergence, regret_under_shift, value_lost


def study_tables(data: Path | None = None) -> dict[str, StudyTable]:
    """All tables by name.

    Args:
        data: folder of real preferences (`sgpo_research.worlds.real_preferences`), an additional world; None: without.
    """
    found = [*fast_tables(data), *_theory_tables(), _text_table()]
    return {table.name: table for table in found}


def _theory_tables() -> list[StudyTable]:
    return [
        StudyTable(
            "theory-value", "Value lost to the worst law in the ball, and its bound (finite game)", 100, 5,
            lambda seed, quick, folder: value_lost(seed), ("radius", "leader"), ("lost", "bound"),
            theory.value_lost_by_radius,
        ),
        StudyTable(
            "theory-regret", "Largest regret under a shift, DPO and SGPO with radius 0.1 (finite game)", 50, 3,
            lambda seed, quick, folder: regret_under_shift(seed, starts=2 if quick else 6), ("shift",),
            ("dpo", "sgpo", "bound"), theory.regret_by_shift,
        ),
        StudyTable(
            "theory-rate", "Distance to the equilibrium, step by step (finite game)", 20, 2,
            lambda seed, quick, folder: convergence(seed), ("path", "iteration"), ("log10_distance",),
            theory.distance_by_iteration,
        ),
    ]  # fmt: skip


def _text_table() -> StudyTable:
    return StudyTable(
        "text-world", "The real loop in the text world, benign and derailing", 6, 1, text_world_rows,
        ("regime", "method", "round"), ("win_rate", "shipped_win_rate", "kl", "agreement"),
        rounds.win_rate_by_round_and_regime,
    )  # fmt: skip
