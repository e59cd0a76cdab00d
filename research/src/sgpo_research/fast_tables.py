"""The study's tables on array worlds.

Minutes on one core of a 2020s server, in full and with the real preferences: worst-case 31 (table1 and table5 are parts
of it), held-out 7, table3 5, figure2 2, seeds 2, table4 2, table4-policy 1. The quick forms take 10 seconds together.
"""

from pathlib import Path

from sgpo_research import experiments
from sgpo_research.figures import dots, radius, rounds, worst_cells
from sgpo_research.follower_time import groups, tangents
from sgpo_research.methods import PLAIN
from sgpo_research.tables import StudyTable

_CELL = ("world", "noise")
_AGAINST = ("method", PLAIN)


def fast_tables(data: Path | None = None) -> tuple[StudyTable, ...]:
    """The tables; with the world of real preferences where `data` is their folder."""
    return (*_numbered_tables(data), *_further_tables(data))


def _numbered_tables(data: Path | None) -> tuple[StudyTable, ...]:
    return (
        StudyTable(
            "table1",
            "Gold win rate against the SFT policy, every method (Tables 1, 2)",
            seeds=40,
            quick_seeds=2,
            run=lambda seed, quick, folder: experiments.main_results(seed, quick, data),
            data=data,
            by=(*_CELL, "method"),
            measures=("win_rate", "reward", "kl"),
            figure=dots.win_rate_by_method,
            against=_AGAINST,
            part=("worst-case", lambda rows: experiments.part_of_worst_case(rows, experiments.main_cells(data))),
        ),
        StudyTable(
            "table3",
            "Radius: fixed, measured and validated (Table 3)",
            seeds=40,
            quick_seeds=2,
            run=lambda seed, quick, folder: experiments.radius(seed, quick, data),
            data=data,
            by=(*_CELL, "step", "rule"),
            measures=("win_rate", "radius_used"),
            figure=radius.win_rate_by_radius,
            against=("rule", "0"),
        ),
        StudyTable(
            "table4",
            "Time and value of the follower by solver, K and group size (Table 4)",
            seeds=3,
            quick_seeds=1,
            run=lambda seed, quick, folder: groups(seed, quick),
            by=("solver", "tangents", "group"),
            measures=("pairs", "seconds", "value", "price"),
        ),
        StudyTable(
            "table4-policy",
            "Gold win rate by K (Table 4)",
            seeds=40,
            quick_seeds=2,
            run=lambda seed, quick, folder: tangents(seed, quick),
            by=(*_CELL, "tangents"),
            measures=("win_rate",),
        ),
        StudyTable(
            "table5",
            "A quarter of the human labels flipped (Table 5)",
            seeds=40,
            quick_seeds=2,
            run=lambda seed, quick, folder: experiments.flipped_seeds(seed, quick, data),
            data=data,
            by=(*_CELL, "method"),
            measures=("win_rate",),
            figure=dots.win_rate_by_method,
            against=_AGAINST,
            part=("worst-case", lambda rows: experiments.part_of_worst_case(rows, experiments.flipped_cells(data))),
        ),
    )


def _further_tables(data: Path | None) -> tuple[StudyTable, ...]:
    return (
        StudyTable(
            "figure2",
            "Gold win rate after each round (Figure 2)",
            seeds=40,
            quick_seeds=2,
            run=lambda seed, quick, folder: experiments.rounds(seed, quick, data),
            data=data,
            by=(*_CELL, "method", "round"),
            measures=("win_rate", "agreement", "kl"),
            figure=rounds.win_rate_by_round,
        ),
        StudyTable(
            "seeds",
            "Seeds by farthest points against random ones, everything else fixed",
            seeds=40,
            quick_seeds=2,
            run=lambda seed, quick, folder: experiments.seed_choice(seed, quick, data),
            data=data,
            by=(*_CELL, "method", "choice"),
            measures=("win_rate",),
            figure=dots.win_rate_by_choice,
            against=("choice", "random"),
            spread=True,
        ),
        StudyTable(
            "held-out",
            "How many held-out pairs the decision needs, under either tuning criterion",
            seeds=20,
            quick_seeds=1,
            run=lambda seed, quick, folder: experiments.held_out_size(seed, quick),
            by=(*_CELL, "pairs", "criterion", "method"),
            measures=("win_rate", "sft"),
            figure=rounds.win_rate_by_held_out_pairs,
            against=_AGAINST,
        ),
        StudyTable(
            "worst-case",
            "Every method in every world with every noise",
            seeds=40,
            quick_seeds=1,
            run=lambda seed, quick, folder: experiments.worst_case_over_worlds(seed, quick, data),
            data=data,
            by=(*_CELL, "method"),
            measures=("win_rate",),
            figure=worst_cells.win_rate_by_cell,
            against=_AGAINST,
            closing=experiments.worst_cells_as_markdown,
        ),
    )
