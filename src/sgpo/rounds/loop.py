"""The loop of SSAPO: from seed pairs to an aligned model, stage by stage on disk (arXiv:2502.18099, Algorithm 1)."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import transformers
from datasets import Dataset, load_from_disk

from sgpo.config import RunConfig
from sgpo.leader.scores import POLICY_COLUMNS, REFERENCE_COLUMNS, stored_gaps
from sgpo.plan.preflight import Preflight
from sgpo.policy.load import Policy
from sgpo.preferences.seeds import hold_out, select_seeds
from sgpo.preferences.source import load_pairs
from sgpo.rounds.annotation import Annotation
from sgpo.rounds.context import Run
from sgpo.rounds.data import resolve_data
from sgpo.rounds.evaluations import check_evaluations, evaluate_round, headlines
from sgpo.rounds.metrics import stage_metrics
from sgpo.rounds.policies import Policies
from sgpo.rounds.scoring import add_fingerprints, score_pairs
from sgpo.rounds.shipping import Shipping
from sgpo.rounds.training import Training
from sgpo.rounds.validation import PAIRS as VALIDATION_PAIRS
from sgpo.stats.ranking import ranking_accuracy
from sgpo.store.processes import Processes
from sgpo.store.progress import Reporter
from sgpo.store.run_dir import RunDir, write_atomically
from sgpo.store.stages import Stages

FINAL_NAME = "final DPO"


@dataclass(frozen=True)
class RoundResult:
    """What an evaluator sees of a round: its number, its policy, and the pairs it was trained on."""

    number: int
    policy: Policy
    pairs: Dataset


@dataclass(frozen=True)
class Evaluation:
    """What an evaluator adds to a round's metrics, and sample responses for the report."""

    metrics: dict[str, Any]
    samples: list[dict[str, Any]] = field(default_factory=list)


Evaluator = Callable[[RoundResult], Evaluation]


def run_recipe(config: RunConfig, *, command: list[str], processes: Processes, reporter: Reporter) -> None:
    """Opens the run directory of a recipe and runs its rounds.

    Raises:
        InputError: see `RunDir` and `run_rounds`.
    """
    quiet_libraries()
    with closing(open_run(config, command, processes)) as run:
        resolved = resolve_data(config, Stages(run, config.seed, processes, reporter))
        if resolved is not config and processes.is_main:
            # The prompts are known only now.
            Preflight(resolved, offline=False).inspect()
        run_rounds(resolved, run, processes=processes, reporter=reporter)


def open_run(config: Any, command: list[str], processes: Processes) -> RunDir:
    """The run directory of a recipe, whose one writer is the main process."""
    with processes.main_first():
        return RunDir(config.output, config.model_dump(mode="json"), command, writer=processes.is_main)


def run_rounds(
    config: RunConfig,
    run: RunDir,
    *,
    evaluate: Evaluator | None = None,
    processes: Processes | None = None,
    reporter: Reporter | None = None,
) -> None:
    """Runs every stage that the run directory does not hold yet.

    Each stage reads its inputs from disk and seeds itself by its own name, so a run that was interrupted ends with
    the same pairs and weights as one that was not.

    Args:
        config: the validated recipe.
        run: the run directory.
        evaluate: called once per round with its policy, and for a last DPO as round `config.rounds` + 1; what it
            returns goes into the round's metrics.
        processes: those that share the run; None: this one.
        reporter: where progress is shown.

    Raises:
        InputError: data or model that the recipe names and that cannot be used.
    """
    quiet_libraries()
    stages = Stages(run, config.seed, processes or Processes(), reporter or Reporter())
    policies = Policies(config, run)
    loop = _Loop(config, stages, policies)
    annotation, training = Annotation(config, stages, policies), Training(config, stages, policies)
    if stages.processes.is_main:
        check_evaluations(config)
    loop.prepare_seeds()
    for number in range(config.rounds + 1):
        if number:
            annotation.run(number)
        training.run(number)
        loop.measure(number, evaluate)
    shipping = Shipping(config, stages, policies)
    shipping.decide()
    start = shipping.round
    if config.final_epochs and start is not None:
        training.finish(start)
        loop.measure(policies.final, evaluate)


def quiet_libraries() -> None:
    """Makes the stages the only cache, and the reporter the only one to draw bars."""
    datasets.disable_caching()
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()


class _Loop:
    def __init__(self, config: RunConfig, stages: Stages, policies: Policies) -> None:
        self._config, self._stages, self._policies = config, stages, policies
        self._run, self._context = stages.run, Run(config, stages, policies)

    def prepare_seeds(self) -> None:
        """Seed pairs, and held-out pairs where there are any, with the reference's scores."""
        data, alone = self._config.data, self._stages.alone
        alone("seed/pairs", lambda path: self._score_human(self._seeds()[0], path))
        if self._config.validation_share:
            alone(VALIDATION_PAIRS, lambda path: self._score_human(self._seeds()[1], path))
        if data.heldout:
            alone(
                "heldout/pairs",
                lambda path: self._score_human(load_pairs(data.heldout, split=data.heldout_split), path),
            )

    def _seeds(self) -> tuple[Dataset, Dataset]:
        """The seed pairs, and those of them that are set aside."""
        data, seed = self._config.data, self._config.seed
        pairs = load_pairs(data.seeds, split=data.seeds_split)
        if data.seed_pairs is not None:
            pairs = select_seeds(pairs, data.seed_pairs, seed)
        share = self._config.validation_share
        return hold_out(pairs, share, seed) if share else (pairs, pairs.select([]))

    def measure(self, number: int, evaluate: Evaluator | None) -> None:
        """The metrics of a finished round, in its own file and as a line of metrics.jsonl."""
        evaluate_round(self._context, number)
        self._stages.alone(
            f"{self._policies.folder(number)}/metrics.json", lambda path: self._measure(number, evaluate, path)
        )
        if not self._stages.processes.is_main:
            return
        lines = [
            json.dumps(json.loads(self._metrics_path(done).read_text(encoding="utf-8"))) for done in range(number + 1)
        ]
        write_atomically(self._run.root / "metrics.jsonl", "\n".join(lines) + "\n")

    def _metrics_path(self, number: int) -> Path:
        return self._run.path(f"{self._policies.folder(number)}/metrics.json")

    def _score_pairs(self, policy: Policy, pairs: Dataset, who: str, columns: tuple[str, str]) -> Dataset:
        max_length = self._config.leader.max_length
        return score_pairs(pairs, policy, columns, max_length=max_length, who=who, reporter=self._stages.reporter)

    def _score_human(self, pairs: Dataset, path: Path) -> None:
        pairs = pairs.select_columns(["prompt", "chosen", "rejected"]).add_column("source", ["human"] * len(pairs))
        reference = self._policies.reference()
        pairs = self._score_pairs(reference, pairs, "reference", REFERENCE_COLUMNS)
        fingerprint, max_length = self._policies.fingerprint_reference(), self._config.leader.max_length
        add_fingerprints(pairs, reference.tokenizer, fingerprint, max_length=max_length).save_to_disk(path)

    def _measure(self, number: int, evaluate: Evaluator | None, path: Path) -> None:
        name = {0: "DPO on seeds", self._policies.final: FINAL_NAME}.get(number, f"round {number}")
        folder = self._run.path(self._policies.folder(number))
        pairs = load_from_disk(folder / "pairs" if number else self._run.path("seed/pairs"))
        metrics = {"round": number, "name": name, "seconds": self._run.seconds(f"{folder.name}/")}
        metrics.update(stage_metrics(folder, pairs, self._config.leader.beta))
        policy = self._policies.of_round(number)
        if self._config.data.heldout:
            heldout = load_from_disk(self._run.path("heldout/pairs"))
            heldout = self._score_pairs(policy, heldout, "policy", POLICY_COLUMNS)
            metrics["heldout"] = ranking_accuracy(stored_gaps(heldout, self._config.leader.beta))._asdict()
        if self._config.evaluate:
            short = headlines(self._context, number)
            metrics["evaluations"] = {name: one.model_dump(exclude_unset=True) for name, one in short.items()}
        if evaluate:
            evaluation = evaluate(RoundResult(number, policy, pairs))
            metrics.update(evaluation.metrics)
            lines = [json.dumps(sample, ensure_ascii=False) for sample in evaluation.samples]
            write_atomically(folder / "samples.jsonl", "".join(f"{line}\n" for line in lines))
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
