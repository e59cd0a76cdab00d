"""The loop of SSAPO: from seed pairs to an aligned model, stage by stage on disk (arXiv:2502.18099, Algorithm 1)."""

from contextlib import ExitStack, closing
from pathlib import Path

import datasets

from sgpo.config import RunConfig
from sgpo.policy.tokens import dated
from sgpo.rounds.context import Run
from sgpo.rounds.costs import Scale, StagePlan
from sgpo.rounds.data import check_files, plan_data, resolve_data, with_files
from sgpo.rounds.evaluations import check_evaluations, evaluate_round, plan_evaluations
from sgpo.rounds.metrics import measure_round
from sgpo.rounds.pairs import annotate_round, plan_human_pairs, plan_pairs, prepare_human_pairs
from sgpo.rounds.responses import generate_candidates, plan_candidates, rank_candidates, score_candidates
from sgpo.rounds.training import plan_follower, plan_training, solve_follower, train_human_pairs, train_round
from sgpo.rounds.validation import choose_round, plan_choice, round_radius, score_validation_pairs, try_radii
from sgpo.store.processes import Processes
from sgpo.store.progress import Reporter, hide_other_bars
from sgpo.store.run_dir import RunDir, start_of
from sgpo.store.stages import Stages


def run_recipe(config: RunConfig, *, command: list[str], processes: Processes, reporter: Reporter) -> None:
    """Runs every stage of a recipe that its run directory does not hold yet; an interrupted run ends with the same
    pairs and weights as an uninterrupted one. `command` is for the manifest. InputError: recipe, data or directory."""
    # The stages are the only cache, and the reporter draws the only bars.
    datasets.disable_caching()
    hide_other_bars()
    with processes.main_first():
        directory = RunDir(config.output, config, command, writer=processes.is_main)
    with ExitStack() as stack:
        stack.enter_context(closing(directory))
        # Templates render the date at which the run began, on whatever day it is resumed.
        stack.enter_context(dated(processes.from_main(start_of(directory.root) if processes.is_main else None)))
        stages = Stages(directory, config.seed, processes, reporter)
        resolved = resolve_data(config, stages)
        if processes.is_main:
            check_evaluations(resolved)
            if resolved is not config:
                check_files(resolved)
        run_rounds(Run(resolved, stages))


def run_rounds(run: Run) -> None:
    """Algorithm 1: DPO on the seeds, rounds of self-annotation and robust training, and the choice of what to ship."""
    prepare_human_pairs(run)
    train_round(run, 0, 0.0, "round-0")
    finish_round(run, 0)
    for number in range(1, run.config.rounds + 1):
        generate_candidates(run, number)
        score_candidates(run, number)
        rank_candidates(run, number)
        annotate_round(run, number)
        score_validation_pairs(run, number - 1)
        play_round(run, number)
        finish_round(run, number)
    shipped = choose_round(run)
    if run.config.final_epochs and shipped is not None:
        train_human_pairs(run, shipped)
        finish_round(run, run.final)


def play_round(run: Run, number: int) -> None:
    """The follower's worst case and the leader's training against it; for several radii if the round is judged."""
    if run.config.judges_rounds:
        try_radii(run, number)
    else:
        radius = round_radius(run, number)
        solve_follower(run, number, radius, f"round-{number}")
        train_round(run, number, radius, f"round-{number}")


def finish_round(run: Run, number: int) -> None:
    """Evaluates the policy of a round and writes the round's metrics."""
    evaluate_round(run, number)
    measure_round(run, number)


def plan_rounds(config: RunConfig, scale: Scale) -> list[StagePlan]:
    """The stages of `run_recipe`, in the same order, but for those that take no time."""
    # A world has an evaluation of its own.
    resolved = with_files(config, Path(config.output))
    stages = [*plan_data(config), *plan_human_pairs(config, scale), plan_training(config, scale, 0)]
    stages += plan_evaluations(resolved, scale, 0)
    for number in range(1, config.rounds + 1):
        stages += plan_candidates(config, scale, number)
        stages += plan_pairs(config, scale, number)
        stages += [plan_follower(config, number), plan_training(config, scale, number)]
        stages += plan_evaluations(resolved, scale, number)
    stages += plan_choice(config)
    if config.final_epochs:
        last = config.rounds + 1
        stages += [plan_training(config, scale, last), *plan_evaluations(resolved, scale, last)]
    return stages
