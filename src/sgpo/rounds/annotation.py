"""Self-annotation of a round: responses, their scores, their rewards, and the pairs that are made of them."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from transformers import AutoConfig

from sgpo.config import RunConfig
from sgpo.errors import InputError
from sgpo.leader.scores import FINGERPRINT_COLUMN, POLICY_COLUMNS, REFERENCE_COLUMNS, stored_gaps
from sgpo.policy.generators import open_generator, sampling_of
from sgpo.policy.load import Policy, load_tokenizer
from sgpo.policy.sampling import Response, prompt_seeds
from sgpo.policy.score import score_responses
from sgpo.preferences.annotate import annotate_pairs, implicit_rewards
from sgpo.preferences.annotators.open import open_annotator
from sgpo.preferences.layout import MESSAGES
from sgpo.preferences.length import adjust_for_length
from sgpo.rounds.policies import Policies
from sgpo.rounds.prompts import prompt_lengths, prompt_room, round_prompts
from sgpo.rounds.scoring import add_fingerprints, score_origin, score_pairs
from sgpo.store.progress import Advance
from sgpo.store.stages import ABOUT, ShardRows, ShardWork, Stages

RESPONSE_FEATURES = Features(
    {
        "prompt": MESSAGES,
        "responses": List(Value("string")),
        "finish_reasons": List(Value("string")),
        "n_tokens": List(Value("int64")),
    }
)
# One row per response, prompt by prompt.
SCORE_FEATURES = Features({"logps": Value("float64"), "n_tokens": Value("int64")})
REWARD_FEATURES = Features({"reward": Value("float64")})
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
_SCORERS = ("policy", "reference")
TOO_LONG = "too_long"


class Annotation:
    """The stages of self-annotation, in the order of `run`.

    Each response passes once through the policy and once through the reference; what they say is on disk, and
    everything later reads it there.
    """

    def __init__(self, config: RunConfig, stages: Stages, policies: Policies) -> None:
        self._config, self._stages, self._policies = config, stages, policies
        self._root = stages.run.root

    def run(self, number: int) -> None:
        """Generates, scores, ranks and pairs the responses of a round."""
        self._generate(number)
        for who in _SCORERS:
            self._score(number, who)
        if self._config.annotation.annotator != "implicit":
            self._rank(number)
        notes: dict[str, int] = {}
        self._stages.alone(f"round-{number}/pairs", lambda path: self._pair(number, path, notes), notes=notes)

    # -- responses ----------------------------------------------------------------------------------------------

    def _generate(self, number: int) -> None:
        name = f"round-{number}/responses"
        if self._stages.has(name):
            return
        prompts, too_long = self._prompts(number)
        seed, sampling = self._stages.seed(name), sampling_of(self._config.generation)

        @contextmanager
        def open_work() -> Iterator[ShardWork]:
            path = self._policies.path(number - 1)
            log = self._root / f"round-{number}/generation.log"
            with open_generator(
                self._config.generation,
                self._config.model.at(path),
                processes=self._stages.processes,
                log=log,
            ) as generator:

                def do(span: range, advance: Advance) -> ShardRows:
                    part = prompts[span.start : span.stop]
                    seeds = prompt_seeds(seed, len(span), first=span.start)
                    return ShardRows(
                        _response_columns(part, generator.generate(part, seeds, sampling, progress=advance))
                    )

                # A pool that was exchanged between two starts must not end up beside what was left of the first.
                about = {"policy": self._policies.fingerprint(number - 1), "prompts": _fingerprint(prompts)}
                yield ShardWork(do, {**about, TOO_LONG: too_long})

        self._shard(
            name, len(prompts), RESPONSE_FEATURES, open_work, main_only=self._config.generation.backend == "vllm"
        )

    def _prompts(self, number: int) -> tuple[list[Any], int]:
        """The prompts of a round that leave room for a response, and how many do not."""
        path = self._policies.path(number - 1)
        prompts = round_prompts(self._config, number)["prompt"][:]
        trust = self._config.model.trust_remote_code
        lengths = prompt_lengths(load_tokenizer(path, trust_remote_code=trust), prompts)
        room = prompt_room(self._config, AutoConfig.from_pretrained(path, trust_remote_code=trust))
        kept = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= room]
        if not kept:
            raise InputError(
                f"round {number}: every one of {len(prompts)} prompts has more than {room} tokens; allowed: at least "
                "one that leaves room for a response."
            )
        return kept, len(prompts) - len(kept)

    # -- scores and rewards -------------------------------------------------------------------------------------

    def _score(self, number: int, who: str) -> None:
        name = f"round-{number}/scores/{who}"
        if self._stages.has(name):
            return
        rows, max_length = self._responses(number), self._config.leader.max_length

        @contextmanager
        def open_work() -> Iterator[ShardWork]:
            policy, fingerprint = self._scorer(number, who)

            def do(span: range, advance: Advance) -> ShardRows:
                part = rows[span.start : span.stop]
                prompts, texts = _flatten(part["prompt"], part["responses"])
                scores = score_responses(
                    policy, prompts, texts, max_length=max_length, progress=_per_prompt(advance, part)
                )
                columns = {"logps": scores.logps.tolist(), "n_tokens": scores.n_tokens.tolist()}
                return ShardRows(columns, {"scored": len(texts)})

            yield ShardWork(do, score_origin(fingerprint, policy.tokenizer, max_length))

        self._shard(name, len(rows), SCORE_FEATURES, open_work)

    def _scorer(self, number: int, who: str) -> tuple[Policy, str]:
        if who == "policy":
            return self._policies.of_round(number - 1), self._policies.fingerprint(number - 1)
        return self._policies.reference(), self._policies.fingerprint_reference()

    def _rank(self, number: int) -> None:
        name = f"round-{number}/rewards"
        if self._stages.has(name):
            return
        rows, settings = self._responses(number), self._config.annotation

        @contextmanager
        def open_work() -> Iterator[ShardWork]:
            with open_annotator(settings, self._config.model) as annotator:

                def do(span: range, advance: Advance) -> ShardRows:
                    part = rows[span.start : span.stop]
                    ranking = annotator(part["prompt"], part["responses"], progress=advance)
                    return ShardRows({"reward": ranking.rewards.tolist()}, ranking.counts)

                yield ShardWork(do, {"annotator": settings.annotator, "model": settings.model})

        self._shard(name, len(rows), REWARD_FEATURES, open_work)

    def _shard(
        self, name: str, count: int, features: Features, open_work: Callable[[], Any], *, main_only: bool = False
    ) -> None:
        size = self._config.generation.shard_size
        self._stages.sharded(name, count, size=size, features=features, open_work=open_work, main_only=main_only)

    def _responses(self, number: int) -> Dataset:
        return load_from_disk(self._root / f"round-{number}/responses")

    # -- pairs --------------------------------------------------------------------------------------------------

    def _pair(self, number: int, path: Path, notes: dict[str, int]) -> None:
        config, settings = self._config, self._config.annotation
        folder, rows = self._root / f"round-{number}", self._responses(number)
        scores = {who: load_from_disk(folder / "scores" / who) for who in _SCORERS}
        origins = {who: _read_json(folder / "scores" / who / ABOUT) for who in _SCORERS}
        self._check_same_tokens(origins)
        logps = {who: np.array(scores[who]["logps"]) for who in _SCORERS}
        beta = config.leader.beta
        rewards = implicit_rewards(logps["policy"], logps["reference"], beta)
        counts: dict[str, Any] = {"scored": {who: origins[who]["scored"] for who in _SCORERS}}
        if settings.annotator != "implicit":
            rewards = np.array(load_from_disk(folder / "rewards")["reward"])
            counts["ranking"] = _read_json(folder / "rewards" / ABOUT)
        rewards = adjust_for_length(
            rewards,
            np.array(scores["policy"]["n_tokens"]),
            per_token=settings.per_token,
            penalty=settings.length_penalty,
        )
        annotation = annotate_pairs(
            rows["prompt"][:],
            [
                list(map(Response, *row))
                for row in zip(rows["responses"], rows["finish_reasons"], rows["n_tokens"], strict=True)
            ],
            rewards,
            policy_logps=logps["policy"],
            reference_logps=logps["reference"],
            beta=beta,
            choice=settings.choice,
            min_margin=settings.min_margin,
            seed=self._stages.seed(f"round-{number}/pairs"),
        )
        self._count_too_long(number, annotation.counts)
        if len(annotation.pairs) == 0:
            raise InputError(
                f"round {number}: no pair left of {len(rows)} prompts ({annotation.counts['dropped']}); allowed: at "
                "least one. Raise generation.temperature, generation.candidates or generation.max_new_tokens."
            )
        pairs = annotation.pairs.add_column("source", ["self"] * len(annotation.pairs))
        tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
        pairs = add_fingerprints(
            pairs, tokenizer, origins["reference"]["model"], max_length=config.leader.max_length
        ).select_columns(PAIR_COLUMNS)
        if config.data.seeds_in_rounds:
            pairs = concatenate_datasets([pairs, self._rescored_seeds(number).cast(pairs.features)])
        pairs.save_to_disk(path)
        prompts, paired = annotation.counts["prompts"], annotation.counts["paired"]
        notes.update(rows=len(pairs), prompts=prompts, paired=paired, dropped=prompts - paired)
        (path / "annotation.json").write_text(json.dumps({**annotation.counts, **counts}), encoding="utf-8")

    def _count_too_long(self, number: int, counts: dict[str, Any]) -> None:
        too_long = _read_json(self._root / f"round-{number}/responses" / ABOUT)[TOO_LONG]
        counts["prompts"] += too_long
        counts["dropped"][TOO_LONG] = too_long

    def _check_same_tokens(self, origins: dict[str, dict[str, Any]]) -> None:
        for part in ("tokenizer", "template", "max_length"):
            ours, theirs = (origins[who][part] for who in _SCORERS)
            if ours != theirs:
                raise InputError(
                    f"policy and reference scored with another {part} ({ours!r} and {theirs!r}); allowed: one, or the "
                    "gaps compare log-probabilities of different tokens."
                )

    def _rescored_seeds(self, number: int) -> Dataset:
        seeds = load_from_disk(self._root / "seed/pairs")
        seeds = score_pairs(
            seeds,
            self._policies.of_round(number - 1),
            POLICY_COLUMNS,
            max_length=self._config.leader.max_length,
            who="policy",
            reporter=self._stages.reporter,
        )
        return seeds.add_column("gap", stored_gaps(seeds, self._config.leader.beta).tolist()).select_columns(
            PAIR_COLUMNS
        )


def _response_columns(prompts: list[Any], responses: list[list[Response]]) -> dict[str, list[Any]]:
    return {
        "prompt": prompts,
        "responses": [[one.text for one in row] for row in responses],
        "finish_reasons": [[one.finish_reason for one in row] for row in responses],
        "n_tokens": [[one.n_tokens for one in row] for row in responses],
    }


def _flatten(prompts: list[Any], responses: list[list[str]]) -> tuple[list[Any], list[str]]:
    flat = [prompt for prompt, row in zip(prompts, responses, strict=True) for _ in row]
    return flat, [text for row in responses for text in row]


def _per_prompt(advance: Advance, part: dict[str, list[Any]]) -> Advance:
    """Counts prompts where a scorer counts responses; a bar takes fractions."""
    each = len(part["prompt"]) / max(sum(map(len, part["responses"])), 1)
    return lambda count: advance(count * each)


def _fingerprint(prompts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16]


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
