"""The tables and figures of the study, by name."""

from sgpo.study.tables import StudyTable
from sgpo.study.theory.claims import convergence, regret_under_shift, value_lost

TABLES: dict[str, StudyTable] = {
    table.name: table
    for table in (
        StudyTable(
            "theory-value",
            "Value lost to the worst law in the ball, and its bound (finite game)",
            seeds=100,
            quick_seeds=5,
            run=lambda seed, quick, folder: value_lost(seed),
            by=("radius", "leader"),
            measures=("lost", "bound"),
        ),
        StudyTable(
            "theory-regret",
            "Largest regret under a shift, DPO and SGPO with radius 0.1 (finite game)",
            seeds=50,
            quick_seeds=3,
            run=lambda seed, quick, folder: regret_under_shift(seed, starts=2 if quick else 6),
            by=("shift",),
            measures=("dpo", "sgpo", "bound"),
        ),
        StudyTable(
            "theory-rate",
            "Distance to the equilibrium, step by step (finite game)",
            seeds=20,
            quick_seeds=2,
            run=lambda seed, quick, folder: convergence(seed),
            by=("path", "iteration"),
            measures=("log10_distance",),
        ),
    )
}
