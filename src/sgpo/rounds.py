"""The loop of SSAPO: from seed pairs to an aligned model, stage by stage on disk (arXiv:2502.18099, Algorithm 1)."""

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import transformers
from datasets import Dataset, concatenate_datasets, load_from_disk
from transformers import PreTrainedTokenizerBase, set_seed

from sgpo.config import Recipe, RunConfig
from sgpo.errors import InputError
from sgpo.evaluate.ranking import ranking_accuracy
from sgpo.leader.guards import LeaderAlert
from sgpo.leader.scores import (
    FINGERPRINT_COLUMN,
    POLICY_COLUMNS,
    REFERENCE_COLUMNS,
    fingerprint_pairs,
    fingerprint_policy,
    stored_gaps,
)
from sgpo.leader.train import build_arguments, train_leader
from sgpo.policy.generate import Response, generate_responses
from sgpo.policy.load import Policy, load_policy, load_tokenizer
from sgpo.policy.score import score_responses
from sgpo.preferences.annotate import annotate_pairs, implicit_rewards
from sgpo.preferences.seeds import select_seeds
from sgpo.preferences.source import load_pairs, load_prompts
from sgpo.progress import Reporter
from sgpo.round_follower import write_worst_case
from sgpo.round_metrics import stage_metrics
from sgpo.run_dir import RunDir, write_atomically

PAIR_COLUMNS = [
    "prompt",
    "chosen",
    "rejected",
    "source",
    *POLICY_COLUMNS,
    *REFERENCE_COLUMNS,
    FINGERPRINT_COLUMN,
    "gap",
]


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


def run_recipe(config: RunConfig, *, command: list[str], reporter: Reporter) -> None:
    """Opens the run directory of a recipe and runs its rounds.

    Raises:
        InputError: see `RunDir` and `run_rounds`.
    """
    with closing(RunDir(config.output, config.model_dump(mode="json"), command)) as run:
        run_rounds(config, run, reporter=reporter)


def run_rounds(
    config: RunConfig,
    run: RunDir,
    *,
    evaluate: Evaluator | None = None,
    reporter: Reporter | None = None,
) -> None:
    """Runs every stage that the run directory does not hold yet.

    Each stage reads its inputs from disk and seeds itself by its own name, so a run that was interrupted ends with
    the same pairs and weights as one that was not.

    Args:
        config: the validated recipe.
        run: the run directory.
        evaluate: called once per round with its policy; what it returns goes into the round's metrics.
        reporter: where progress is shown.

    Raises:
        InputError: data or model that the recipe names and that cannot be used.
    """
    quiet_libraries()
    loop = _Loop(config, run, reporter or Reporter())
    loop.prepare_seeds()
    for number in range(config.rounds + 1):
        if number:
            loop.generate(number)
            loop.annotate(number)
            loop.solve_follower(number)
        loop.train(number)
        loop.measure(number, evaluate)


def quiet_libraries() -> None:
    """Makes the stages the only cache, and the reporter the only one to draw bars."""
    datasets.disable_caching()
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()


def round_sizes(available: int, config: Recipe, source: str) -> list[int]:
    """How many prompts each round takes of a pool.

    Raises:
        InputError: the pool, named by `source`, is too small for the rounds.
    """
    sizes = config.data.prompts_per_round
    if sizes is None:
        sizes = available // max(config.rounds, 1)
    sizes = sizes if isinstance(sizes, list) else [sizes] * config.rounds
    if sizes and (min(sizes) == 0 or sum(sizes) > available):
        raise InputError(
            f"{source}: holds {available} prompts; allowed: at least {sum(sizes) or config.rounds} for "
            f"{config.rounds} rounds, or a smaller data.prompts_per_round."
        )
    return sizes


def round_prompts(prompts: Dataset, config: RunConfig, number: int) -> Dataset:
    """The prompts of one round: a slice of the shuffled pool that shares nothing with other rounds.

    Raises:
        InputError: the pool is too small for the rounds.
    """
    sizes = round_sizes(len(prompts), config, f"data.prompts: {config.data.prompts}")
    start = sum(sizes[: number - 1])
    return prompts.shuffle(seed=config.seed).select(range(start, start + sizes[number - 1]))


def leader_settings(config: Recipe, number: int, *, seed: int) -> dict[str, Any]:
    """SGPOConfig's arguments for one round; round 0 is DPO on the seeds (Algorithm 1, line 1)."""
    leader, follower, seeds_only = config.leader, config.follower, number == 0
    settings = {
        "beta": leader.beta,
        "learning_rate": (seeds_only and leader.seed_learning_rate) or leader.learning_rate,
        "num_train_epochs": leader.seed_epochs if seeds_only else leader.epochs,
        "per_device_train_batch_size": leader.micro_batch_size,
        "gradient_accumulation_steps": leader.batch_size // leader.micro_batch_size,
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
        **follower.model_dump(mode="json"),
        "tangents": follower.tangents or 0,
        "step": leader.step,
        "proximal": leader.proximal,
    }


class _Loop:
    def __init__(self, config: RunConfig, run: RunDir, reporter: Reporter) -> None:
        self.config, self.run, self.reporter = config, run, reporter

    # -- stages -------------------------------------------------------------------------------------------------

    def prepare_seeds(self) -> None:
        """Seed pairs, and held-out pairs where there are any, with the reference's scores."""
        data = self.config.data
        self._stage("seed/pairs", lambda path: self._human_pairs(path, data.seeds, data.seeds_split, data.seed_pairs))
        if data.heldout:
            self._stage("heldout/pairs", lambda path: self._human_pairs(path, data.heldout, data.heldout_split, None))

    def generate(self, number: int) -> None:
        """Several responses of the last policy to each prompt of the round."""
        self._stage(f"round-{number}/responses", lambda path: self._generate(number, path))

    def annotate(self, number: int) -> None:
        """Scores every response once by the policy and once by the reference, and pairs best with worst."""
        self._stage(f"round-{number}/pairs", lambda path: self._annotate(number, path))

    def solve_follower(self, number: int) -> None:
        """The worst case of the round's gaps."""
        stage = f"round-{number}/worst_case.parquet"
        self._stage(stage, lambda path: self._solve_follower(number, path))

    def train(self, number: int) -> None:
        """The leader's step: DPO on the seeds in round 0, the robust loss afterwards."""
        self._stage(f"round-{number}/policy", lambda path: self._train(number, path))

    def measure(self, number: int, evaluate: Evaluator | None) -> None:
        """The metrics of a finished round, in its own file and as a line of metrics.jsonl."""
        self._stage(f"round-{number}/metrics.json", lambda path: self._measure(number, evaluate, path))
        lines = [
            json.dumps(json.loads(self.run.path(f"round-{done}/metrics.json").read_text(encoding="utf-8")))
            for done in range(number + 1)
        ]
        write_atomically(self.run.root / "metrics.jsonl", "\n".join(lines) + "\n")

    def _stage(self, name: str, work: Callable[[Path], None]) -> None:
        if self.run.has(name):
            return
        set_seed(self._seed(name))
        with self.reporter.stage(name), self.run.writing(name) as path:
            work(path)

    def _seed(self, name: str) -> int:
        digest = hashlib.sha256(f"{self.config.seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:4], "big") // 2

    # -- work ---------------------------------------------------------------------------------------------------

    def _policy_path(self, number: int) -> Path:
        return self.run.path(f"round-{number}/policy")

    def _policy(self, number: int) -> Policy:
        return self._load(str(self._policy_path(number)), adapter=None)

    def _reference(self) -> Policy:
        return self._load(self.config.model.path, adapter=self.config.model.adapter)

    def _load(self, path: str, adapter: str | None) -> Policy:
        model = self.config.model
        return load_policy(path, dtype=model.dtype, adapter=adapter, trust_remote_code=model.trust_remote_code)

    def _score(self, policy: Policy, prompts: list[Any], responses: list[str], who: str) -> Any:
        with self.reporter.bar(f"scoring by the {who}", len(responses)) as advance:
            return score_responses(
                policy, prompts, responses, max_length=self.config.leader.max_length, progress=advance
            ).logps

    def _score_pairs(self, policy: Policy, pairs: Dataset, who: str, columns: tuple[str, str]) -> Dataset:
        prompts = pairs["prompt"][:]
        texts = [row[0]["content"] for side in ("chosen", "rejected") for row in pairs[side]]
        logps = self._score(policy, prompts * 2, texts, who)
        pairs = pairs.remove_columns([column for column in columns if column in pairs.column_names])
        for column, values in zip(columns, (logps[: len(pairs)], logps[len(pairs) :]), strict=True):
            pairs = pairs.add_column(column, values.tolist())
        return pairs

    def _human_pairs(self, path: Path, source: str, split: str | None, size: int | None) -> None:
        pairs = load_pairs(source, split=split)
        if size is not None:
            pairs = select_seeds(pairs, size, self.config.seed)
        pairs = pairs.select_columns(["prompt", "chosen", "rejected"]).add_column("source", ["human"] * len(pairs))
        reference = self._reference()
        pairs = self._score_pairs(reference, pairs, "reference", REFERENCE_COLUMNS)
        self._add_fingerprints(pairs, reference.tokenizer, self._fingerprint_reference()).save_to_disk(path)

    def _fingerprint_reference(self) -> str:
        return fingerprint_policy(self.config.model.path, adapter=self.config.model.adapter)

    def _add_fingerprints(self, pairs: Dataset, tokenizer: PreTrainedTokenizerBase, policy: str) -> Dataset:
        max_length = self.config.leader.max_length
        return pairs.add_column(FINGERPRINT_COLUMN, fingerprint_pairs(pairs, tokenizer, policy, max_length=max_length))

    def _generate(self, number: int, path: Path) -> None:
        settings = self.config.generation
        prompts = round_prompts(
            load_prompts(self.config.data.prompts, split=self.config.data.prompts_split), self.config, number
        )
        policy = self._policy(number - 1)
        with self.reporter.bar("responses", len(prompts)) as advance:
            responses = generate_responses(
                policy,
                prompts["prompt"][:],
                n=settings.candidates,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                seed=self._seed(f"round-{number}/responses"),
                progress=advance,
            )
        Dataset.from_dict(
            {
                "prompt": prompts["prompt"][:],
                "responses": [[one.text for one in row] for row in responses],
                "finish_reasons": [[one.finish_reason for one in row] for row in responses],
                "n_tokens": [[one.n_tokens for one in row] for row in responses],
            }
        ).save_to_disk(path)

    def _annotate(self, number: int, path: Path) -> None:
        rows = load_from_disk(self.run.path(f"round-{number}/responses"))
        prompts, texts = rows["prompt"][:], rows["responses"][:]
        flat_prompts = [prompt for prompt, row in zip(prompts, texts, strict=True) for _ in row]
        flat_texts = [text for row in texts for text in row]
        policy_logps = self._score(self._policy(number - 1), flat_prompts, flat_texts, "policy")
        reference = self._reference()
        reference_logps = self._score(reference, flat_prompts, flat_texts, "reference")
        beta = self.config.leader.beta
        annotation = annotate_pairs(
            prompts,
            [list(map(Response, *row)) for row in zip(texts, rows["finish_reasons"], rows["n_tokens"], strict=True)],
            implicit_rewards(policy_logps, reference_logps, beta),
            policy_logps=policy_logps,
            reference_logps=reference_logps,
            beta=beta,
        )
        if len(annotation.pairs) == 0:
            raise InputError(
                f"round {number}: no pair left of {len(prompts)} prompts ({annotation.counts['dropped']}); allowed: at "
                "least one. Raise generation.temperature, generation.candidates or generation.max_new_tokens."
            )
        pairs = annotation.pairs.add_column("source", ["self"] * len(annotation.pairs))
        pairs = self._add_fingerprints(pairs, reference.tokenizer, self._fingerprint_reference()).select_columns(
            PAIR_COLUMNS
        )
        if self.config.data.seeds_in_rounds:
            pairs = concatenate_datasets([pairs, self._rescored_seeds(number).cast(pairs.features)])
        pairs.save_to_disk(path)
        (path / "annotation.json").write_text(json.dumps(annotation.counts), encoding="utf-8")

    def _rescored_seeds(self, number: int) -> Dataset:
        seeds = load_from_disk(self.run.path("seed/pairs"))
        seeds = self._score_pairs(self._policy(number - 1), seeds, "policy", POLICY_COLUMNS)
        return seeds.add_column("gap", stored_gaps(seeds, self.config.leader.beta).tolist()).select_columns(
            PAIR_COLUMNS
        )

    def _training(self, number: int) -> tuple[Dataset, dict[str, Any]]:
        """The pairs of a round with the scores of the reference that the leader refers to, and its arguments."""
        seeds = load_from_disk(self.run.path("seed/pairs"))
        settings = leader_settings(self.config, number, seed=self._seed(f"round-{number}/policy"))
        # What scored the seeds is the reference of the whole run: another model at its path is not believed.
        settings["reference_fingerprint"] = seeds[0][FINGERPRINT_COLUMN].partition(":")[0]
        if number == 0:
            return seeds, settings
        pairs = load_from_disk(self.run.path(f"round-{number}/pairs"))
        if self.config.reference == "sft":
            return pairs, settings
        # The reference is the policy that the round starts from, and that has scored these pairs.
        previous = self._policy_path(number - 1)
        settings["reference_fingerprint"] = fingerprint_policy(previous)
        pairs = pairs.remove_columns([*REFERENCE_COLUMNS, FINGERPRINT_COLUMN])
        for own, reference in zip(POLICY_COLUMNS, REFERENCE_COLUMNS, strict=True):
            pairs = pairs.add_column(reference, pairs[own][:])
        return self._add_fingerprints(pairs, load_tokenizer(previous), settings["reference_fingerprint"]), settings

    def _solve_follower(self, number: int, path: Path) -> None:
        pairs, settings = self._training(number)
        arguments = build_arguments(settings, self.config.leader.trainer, output_dir="unused")
        write_worst_case(pairs, arguments, path)

    def _train(self, number: int, path: Path) -> None:
        leader, (pairs, settings) = self.config.leader, self._training(number)
        policy = self._policy(number - 1) if number else self._reference()
        steps = math.ceil(settings["num_train_epochs"] * math.ceil(len(pairs) / leader.batch_size))
        with self.reporter.bar("leader steps", steps) as advance, self.reporter.showing(LeaderAlert):
            log = train_leader(
                policy,
                pairs,
                path,
                settings=settings,
                extra=leader.trainer,
                peft_config=leader.lora,
                advance=advance,
            )
        (path / "training_log.json").write_text(json.dumps(log, indent=1), encoding="utf-8")

    def _measure(self, number: int, evaluate: Evaluator | None, path: Path) -> None:
        name = f"round {number}" if number else "DPO on seeds"
        folder = self.run.path(f"round-{number}")
        pairs = load_from_disk(folder / "pairs" if number else self.run.path("seed/pairs"))
        metrics = {"round": number, "name": name, "seconds": self.run.seconds(f"round-{number}/")}
        metrics.update(stage_metrics(folder, pairs, self.config.leader.beta))
        policy = self._policy(number)
        if self.config.data.heldout:
            heldout = load_from_disk(self.run.path("heldout/pairs"))
            heldout = self._score_pairs(policy, heldout, "policy", POLICY_COLUMNS)
            metrics["heldout"] = ranking_accuracy(stored_gaps(heldout, self.config.leader.beta))._asdict()
        if evaluate:
            evaluation = evaluate(RoundResult(number, policy, pairs))
            metrics.update(evaluation.metrics)
            lines = [json.dumps(sample, ensure_ascii=False) for sample in evaluation.samples]
            write_atomically(folder / "samples.jsonl", "".join(f"{line}\n" for line in lines))
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
