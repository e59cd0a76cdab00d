"""The leader's step of a round: its pairs, its arguments, and the training."""

import json
import math
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets, load_from_disk

from sgpo.config import Recipe, RunConfig
from sgpo.errors import InputError
from sgpo.leader.guards import LeaderAlert
from sgpo.leader.scores import FINGERPRINT_COLUMN, POLICY_COLUMNS, REFERENCE_COLUMNS, stored_gaps
from sgpo.leader.train import build_arguments, train_leader
from sgpo.policy.load import Policy, load_tokenizer
from sgpo.rounds.follower import write_worst_case
from sgpo.rounds.policies import Policies
from sgpo.rounds.scoring import add_fingerprints
from sgpo.rounds.validation import PAIRS as VALIDATION_PAIRS
from sgpo.rounds.validation import TRAINING_LOG, Validation
from sgpo.store.stages import Stages


def leader_settings(
    config: Recipe, number: int, *, seed: int, radius: float | None = None, processes: int = 1
) -> dict[str, Any]:
    """SGPOConfig's arguments for one round; round 0 is DPO on the seeds (Algorithm 1, line 1).

    Args:
        config: the recipe.
        number: of the round.
        seed: of the training.
        radius: of the follower; None: the recipe's own number.
        processes: that share a batch.

    Raises:
        InputError: the processes do not divide the batch.
    """
    leader, follower, seeds_only = config.leader, config.follower, number == 0
    if leader.batch_size % (leader.micro_batch_size * processes):
        raise InputError(
            f"leader.batch_size is {leader.batch_size}; allowed: a multiple of leader.micro_batch_size times the "
            f"number of processes ({leader.micro_batch_size} x {processes})."
        )
    settings = {
        "beta": leader.beta,
        "learning_rate": (seeds_only and leader.seed_learning_rate) or leader.learning_rate,
        "num_train_epochs": leader.seed_epochs if seeds_only else leader.epochs,
        "per_device_train_batch_size": leader.micro_batch_size,
        "gradient_accumulation_steps": leader.batch_size // (leader.micro_batch_size * processes),
        "max_length": leader.max_length,
        "lr_scheduler_type": leader.lr_scheduler,
        "warmup_steps": leader.warmup_share,
        "bf16": config.model.dtype == "bfloat16",
        "fp16": config.model.dtype == "float16",
        "seed": seed,
    }
    if seeds_only:
        return {**settings, "radius": 0.0}
    return {
        **settings,
        **follower.model_dump(mode="json", exclude={"radius_factor", "radius_grid"}),
        **({} if radius is None else {"radius": radius}),
        "tangents": follower.tangents or 0,
        "step": leader.step,
        "proximal": leader.proximal,
    }


class Training:
    """The follower's answer to a round's pairs, and the leader's training against it."""

    def __init__(self, config: RunConfig, stages: Stages, policies: Policies) -> None:
        self._config, self._stages, self._policies = config, stages, policies
        self._validation = Validation(config, stages, policies)
        self._root = stages.run.root

    def run(self, number: int) -> None:
        """Trains a round: DPO on the seeds in round 0, the robust loss afterwards.

        Where rounds are judged, each radius of the grid is tried, and what the validation pairs choose is the round's
        policy; where they turn all of them down, it is the policy before. Round 0 is always taken: people labelled its
        pairs, and without it no implicit reward tells two responses apart.
        """
        if self._config.validation_share and number:
            # What the round's radius is measured with, or its policy compared to.
            self._validation.score(number - 1)
        if number == 0 or not self._config.judges_rounds:
            radius = self._radius(number)
            self._solve_follower(number, radius)
            self._stages.together(f"round-{number}/policy", lambda path: self._train(number, path, radius))
            return
        if not self._stages.has(f"round-{number}/policy"):
            radii = self._grid(number)
            for place, radius in enumerate(radii):
                trial = f"round-{number}/trials/{place}"
                self._stages.together(f"{trial}/policy", lambda path, radius=radius: self._train(number, path, radius))
                self._validation.score_trial(trial)
            self._validation.decide(number, radii)
        self._validation.clear(number)
        decision = self._validation.decision(number)
        self._solve_follower(number, decision["radius"])

    def finish(self, start: int) -> None:
        """DPO on all human pairs, those set aside included, from the policy of a round: people have the last word.

        The pairs are of the SFT model's scores and the settings those of round 0, but for the epochs.
        """
        final, root = self._policies.final, self._root

        def gather(path: Path) -> None:
            parts = [load_from_disk(root / name) for name in ("seed/pairs", VALIDATION_PAIRS) if (root / name).exists()]
            concatenate_datasets(parts).save_to_disk(path)

        name = self._policies.folder(final)
        self._stages.alone(f"{name}/pairs", gather)
        self._stages.together(f"{name}/policy", lambda path: self._finish(start, path))

    def _finish(self, start: int, path: Path) -> None:
        name = self._policies.folder(self._policies.final)
        pairs, seed = load_from_disk(self._root / f"{name}/pairs"), self._stages.seed(f"{name}/policy")
        settings = leader_settings(self._config, 0, seed=seed, processes=self._stages.processes.count)
        settings["num_train_epochs"] = self._config.final_epochs
        settings["reference_fingerprint"] = pairs[0][FINGERPRINT_COLUMN].partition(":")[0]
        self._fit(start, path, pairs, settings, self._live_reference(0))

    def _grid(self, number: int) -> list[float]:
        if self._config.follower.radius == "validated":
            return self._config.follower.radius_grid
        return [self._radius(number)]

    def _radius(self, number: int) -> float:
        if number == 0:
            return 0.0
        if self._config.follower.radius == "measured":
            pairs = load_from_disk(self._root / f"round-{number}/pairs")
            return self._validation.measured_radius(
                number, stored_gaps(pairs, self._config.leader.beta), pairs["source"][:]
            )
        return self._config.follower.radius

    def _pairs(self, number: int, radius: float) -> tuple[Dataset, dict[str, Any]]:
        """The pairs of a round with the scores of the reference that the leader refers to, and its arguments."""
        seeds = load_from_disk(self._root / "seed/pairs")
        seed, count = self._stages.seed(f"round-{number}/policy"), self._stages.processes.count
        settings = leader_settings(self._config, number, seed=seed, radius=radius, processes=count)
        # What scored the seeds is the reference of the whole run: another model at its path is not believed.
        settings["reference_fingerprint"] = seeds[0][FINGERPRINT_COLUMN].partition(":")[0]
        if number == 0:
            return seeds, settings
        pairs = load_from_disk(self._root / f"round-{number}/pairs")
        if self._config.reference == "sft":
            return pairs, settings
        # The reference is the policy that the round starts from, and that has scored these pairs.
        settings["reference_fingerprint"] = self._policies.fingerprint(number - 1)
        pairs = pairs.remove_columns([*REFERENCE_COLUMNS, FINGERPRINT_COLUMN])
        for own, reference in zip(POLICY_COLUMNS, REFERENCE_COLUMNS, strict=True):
            pairs = pairs.add_column(reference, pairs[own][:])
        trust = self._config.model.trust_remote_code
        tokenizer = load_tokenizer(self._policies.path(number - 1), trust_remote_code=trust)
        fingerprint, max_length = settings["reference_fingerprint"], self._config.leader.max_length
        return add_fingerprints(pairs, tokenizer, fingerprint, max_length=max_length), settings

    def _solve_follower(self, number: int, radius: float) -> None:
        """The worst case of the round's gaps, as a file."""
        if number == 0:
            return

        def work(path: Path) -> None:
            pairs, settings = self._pairs(number, radius)
            write_worst_case(pairs, build_arguments(settings, self._config.leader.trainer, output_dir="unused"), path)

        self._stages.alone(f"round-{number}/worst_case.parquet", work)

    def _train(self, number: int, path: Path, radius: float) -> None:
        pairs, settings = self._pairs(number, radius)
        self._fit(number - 1 if number else None, path, pairs, settings, self._live_reference(number))

    def _fit(
        self, start: int | None, path: Path, pairs: Dataset, settings: dict[str, Any], reference: Policy | None
    ) -> None:
        """Trains the policy of a round, or the SFT model, and leaves the result at a path."""
        leader = self._config.leader
        policy = self._policies.reference() if start is None else self._policies.of_round(start)
        steps = math.ceil(settings["num_train_epochs"] * math.ceil(len(pairs) / leader.batch_size))
        if steps == 1:
            # A warm-up starts at 0: the only step would change nothing.
            settings = {**settings, "warmup_steps": 0}
        reporter = self._stages.reporter
        with reporter.bar("leader steps", steps) as advance, reporter.showing(LeaderAlert):
            log = train_leader(
                policy,
                pairs,
                path,
                settings=settings,
                extra=leader.trainer,
                peft_config=leader.lora,
                advance=advance,
                reference=reference,
            )
        if self._stages.processes.is_main:
            (path / TRAINING_LOG).write_text(json.dumps(log, indent=1), encoding="utf-8")

    def _live_reference(self, number: int) -> Policy | None:
        """The reference itself, for the one loss that needs its logits beside its stored scores."""
        if self._config.leader.trainer.get("decoupling", 1) == 1:
            return None
        is_sft = number == 0 or self._config.reference == "sft"
        return self._policies.reference() if is_sft else self._policies.of_round(number - 1)
