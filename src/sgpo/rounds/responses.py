"""The responses of a round: generated, scored by policy and reference, and ranked by the annotator, in shards.

Each response passes once through the policy and once through the reference. Everything later reads the scores on disk.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from datasets import Features, List, Value
from safetensors.numpy import load_file

from sgpo.config import ModelConfig, RunConfig
from sgpo.errors import naming_rows
from sgpo.policy.fingerprints import fingerprint_template, fingerprint_tokenizer
from sgpo.policy.generators import load_model, open_generator, sampling_of
from sgpo.policy.sampling import prompt_seeds
from sgpo.policy.score import score_responses
from sgpo.preferences.annotators.heads import RewardHeads
from sgpo.preferences.annotators.open import open_annotator
from sgpo.preferences.layout import MESSAGES
from sgpo.rounds.context import Run
from sgpo.rounds.costs import Scale, StagePlan
from sgpo.rounds.data import prompt_lengths, round_prompts
from sgpo.stats.heads import Heads
from sgpo.store.files import read_json, reading_back
from sgpo.store.progress import Advance, in_shares
from sgpo.store.stages import Rows, ShardWork

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
SCORERS = ("policy", "reference")
TOO_LONG = "too_long"


def generate_candidates(run: Run, number: int) -> None:
    """The policy that the round starts from answers the prompts of the round."""
    name, start, config = f"round-{number}/responses", number - 1, run.config
    if run.stages.has(name):
        return
    policy = run.model(start)
    pool = round_prompts(config, number)
    lengths, room = prompt_lengths(config, load_model(policy, "meta"), pool, f"round {number}")
    prompts = pool.select((lengths <= room).nonzero()[0])["prompt"][:]
    seed, sampling = run.stages.seed(name), sampling_of(config.generation)

    @contextmanager
    def open_work() -> Iterator[ShardWork]:
        log, processes = run.root / f"round-{number}/generation.log", run.stages.processes
        with open_generator(config.generation, policy, processes=processes, log=log) as generator:

            def do(span: range, advance: Advance) -> Rows:
                part, seeds = prompts[span.start : span.stop], prompt_seeds(seed, len(span), first=span.start)
                found = generator.generate(part, seeds, sampling, progress=advance)
                columns = {
                    "prompt": part,
                    "responses": [[one.text for one in row] for row in found],
                    "finish_reasons": [[one.finish_reason for one in row] for row in found],
                    "n_tokens": [[one.n_tokens for one in row] for row in found],
                }
                failed = Counter(one.finish_reason for row in found for one in row if one.failed)
                return columns, {f"failed_{reason}": count for reason, count in failed.items()}

            # Shards of another policy or pool, replaced between two starts, must not be mixed with these.
            digest = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
            about = {"policy": run.fingerprint(start), "prompts": digest[:16], TOO_LONG: len(pool) - len(prompts)}
            yield ShardWork(do, about)

    _shard(run, name, len(prompts), RESPONSE_FEATURES, open_work, main_only=config.generation.backend == "vllm")


def score_candidates(run: Run, number: int) -> None:
    """Log-probabilities of the responses under the policy that generated them, and under the reference."""
    for who in SCORERS:
        name = f"round-{number}/scores/{who}"
        if not run.stages.has(name):
            _score(run, number, name, number - 1 if who == "policy" else None)


def _score(run: Run, number: int, name: str, scorer: int | None) -> None:
    rows, max_length = run.load(f"round-{number}/responses"), run.config.leader.max_length

    @contextmanager
    def open_work() -> Iterator[ShardWork]:
        policy = run.policy(scorer)
        # Template and tokenizer may give a response that was cut at the token limit more tokens than the context has.
        # It is scored up to there, and makes no pair.
        limit = max_length if policy.context is None else min(max_length, policy.context)

        def do(span: range, advance: Advance) -> Rows:
            part = rows[span.start : span.stop]
            given = [(prompt, text) for prompt, row in enumerate(part["responses"]) for text in row]
            # A failed or empty response has nothing to score, and makes no pair.
            wanted = [place for place, (_, text) in enumerate(given) if text.strip()]
            owners, texts = [given[place][0] for place in wanted], [given[place][1] for place in wanted]
            prompts, found = [part["prompt"][owner] for owner in owners], np.zeros((2, len(given)))
            # The bar counts prompts where the scorer counts responses.
            progress = in_shares(advance, len(span), len(wanted))
            with naming_rows(lambda row: f"round {number}, prompt {span.start + owners[row]}"):
                found[:, wanted] = score_responses(policy, prompts, texts, max_length=limit, progress=progress)
            return {"logps": found[0].tolist(), "n_tokens": found[1].astype(int).tolist()}, {"scored": len(wanted)}

        origin = {
            "model": run.fingerprint(scorer),
            "tokenizer": fingerprint_tokenizer(policy.tokenizer),
            "template": fingerprint_template(policy.tokenizer),
            "max_length": max_length,
        }
        yield ShardWork(do, origin)

    _shard(run, name, len(rows), SCORE_FEATURES, open_work)


def rank_candidates(run: Run, number: int) -> None:
    """Rewards of the responses by the recipe's annotator; the implicit reward follows from the scores."""
    name, settings = f"round-{number}/rewards", run.config.annotation
    if settings.annotator == "implicit" or run.stages.has(name):
        return
    rows = run.load(f"round-{number}/responses")

    @contextmanager
    def open_work() -> Iterator[ShardWork]:
        # A judge's answers are paid for: they outlive a shard that was not finished.
        cache = run.root / f"round-{number}/verdicts-{run.stages.processes.rank}.jsonl"
        annotator = open_heads(run) if settings.annotator == "heads" else open_annotator(settings, cache)

        def do(span: range, advance: Advance) -> Rows:
            part = rows[span.start : span.stop]
            ranking = annotator(part["prompt"], part["responses"], progress=advance)
            return {"reward": ranking.rewards.tolist()}, ranking.counts

        yield ShardWork(do, {"annotator": settings.annotator, "model": settings.model})

    _shard(run, name, len(rows), REWARD_FEATURES, open_work)


def open_heads(run: Run) -> RewardHeads:
    """The run's reward heads on the SFT model, or the model that the recipe names; without weights until fitted."""
    settings, path = run.config.annotation, run.root / "heads/heads.safetensors"
    options = settings.read_options
    model = run.config.model if settings.model is None else ModelConfig(path=settings.model)
    policy = load_model(model.model_copy(update={"dtype": options.dtype}), options.device)
    heads = None
    if path.exists():
        with reading_back(path):
            heads, about = Heads(**load_file(path)), read_json(path.with_suffix(".json"))
            options = options.model_copy(update={"pooling": about["pooling"]})
    return RewardHeads(policy, options, heads, settings.max_failed)


def _shard(
    run: Run, name: str, count: int, features: Features, open_work: Callable[[], Any], *, main_only: bool = False
) -> None:
    size = run.config.generation.shard_size
    run.stages.sharded(name, count, size=size, features=features, open_work=open_work, main_only=main_only)


def plan_candidates(config: RunConfig, scale: Scale, number: int) -> list[StagePlan]:
    """The stages of `generate_candidates`, `score_candidates` and `rank_candidates`."""
    prompts, name = scale.pools[number - 1], f"round-{number}"
    responses = prompts * config.generation.candidates
    # A prompt is read once for all of its responses.
    generated = prompts * scale.prompt_tokens + responses * scale.response_tokens
    generating = scale.hours(config.hardware, generated, generating=True)
    scoring = scale.hours(config.hardware, responses * scale.tokens)
    stages = [
        StagePlan(f"{name}/responses", f"{prompts} prompts, {responses} responses", generating),
        *(StagePlan(f"{name}/scores/{who}", f"{responses} responses", scoring) for who in SCORERS),
    ]
    if config.annotation.annotator != "implicit":
        stages.append(StagePlan(f"{name}/rewards", f"{responses} responses, ranked by {config.annotation.annotator}"))
    return stages
