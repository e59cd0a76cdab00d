"""Self-annotation: the scored responses of a round become preference pairs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from sgpo.config import RunConfig
from sgpo.errors import InputError
from sgpo.leader.scores import FINGERPRINT_COLUMN, POLICY_COLUMNS, REFERENCE_COLUMNS, stored_gaps
from sgpo.policy.load import load_tokenizer
from sgpo.policy.sampling import Response
from sgpo.preferences.annotate import annotate_pairs, implicit_rewards
from sgpo.preferences.length import adjust_for_length
from sgpo.rounds.context import Run
from sgpo.rounds.costs import Scale, StagePlan
from sgpo.rounds.responses import SCORERS, TOO_LONG
from sgpo.rounds.scoring import add_fingerprints, add_scores
from sgpo.rounds.seeds import SEEDS
from sgpo.store.files import read_json, write_json
from sgpo.store.stages import ABOUT

COUNTS = "annotation.json"
_SCORES = [*POLICY_COLUMNS, *REFERENCE_COLUMNS, FINGERPRINT_COLUMN, "gap"]
_COLUMNS = ["prompt", "chosen", "rejected", "source", *_SCORES]


def annotate_round(run: Run, number: int) -> None:
    """Makes the pairs of a round, with the scores of policy and reference and the gap of each."""
    notes: dict[str, int] = {}
    run.stages.alone(f"round-{number}/pairs", lambda path: _write_pairs(run, number, path, notes), notes=notes)


def plan_pairs(config: RunConfig, scale: Scale, number: int) -> list[StagePlan]:
    """The stage of `annotate_round`."""
    return [StagePlan(f"round-{number}/pairs", f"at most {most_pairs(config, scale, number)} pairs")]


def most_pairs(config: RunConfig, scale: Scale, number: int) -> int:
    """How many pairs a round has if no prompt is dropped."""
    each = math.comb(config.generation.candidates, 2) if config.annotation.choice == "all" else 1
    return each * scale.pools[number - 1] + scale.seeds * config.data.seeds_in_rounds


def _write_pairs(run: Run, number: int, path: Path, notes: dict[str, int]) -> None:
    config, folder = run.config, f"round-{number}"
    rows = run.load(f"{folder}/responses")
    scores = {who: run.load(f"{folder}/scores/{who}") for who in SCORERS}
    origins = {who: _about(run, f"{folder}/scores/{who}") for who in SCORERS}
    _check_same_tokens(origins)
    logps = {who: np.array(scores[who]["logps"]) for who in SCORERS}
    extra: dict[str, Any] = {"scored": {who: origins[who]["scored"] for who in SCORERS}}
    if config.annotation.annotator == "implicit":
        rewards = implicit_rewards(logps["policy"], logps["reference"], config.leader.beta)
    else:
        rewards = np.array(run.load(f"{folder}/rewards")["reward"])
        extra["ranking"] = _about(run, f"{folder}/rewards")
    annotation = annotate_pairs(
        rows["prompt"][:],
        [
            list(map(Response, *row))
            for row in zip(rows["responses"], rows["finish_reasons"], rows["n_tokens"], strict=True)
        ],
        adjust_for_length(
            rewards,
            np.array(scores["policy"]["n_tokens"]),
            per_token=config.annotation.per_token,
            penalty=config.annotation.length_penalty,
        ),
        policy_logps=logps["policy"],
        reference_logps=logps["reference"],
        beta=config.leader.beta,
        choice=config.annotation.choice,
        min_margin=config.annotation.min_margin,
        seed=run.stages.seed(f"{folder}/pairs"),
    )
    counts = _with_too_long(annotation.counts, _about(run, f"{folder}/responses")[TOO_LONG])
    if counts["pairs"] == 0:
        raise InputError(
            f"round {number}: no pair left of {len(rows)} prompts ({counts['dropped']}); allowed: at least one. Raise "
            "generation.temperature, generation.candidates or generation.max_new_tokens."
        )
    pairs = _as_stored(run, number, annotation.pairs, origins["reference"]["model"])
    pairs.save_to_disk(path)
    write_json(path / COUNTS, {**counts, **extra})
    dropped = counts["prompts"] - counts["paired"]
    notes.update(rows=len(pairs), prompts=counts["prompts"], paired=counts["paired"], dropped=dropped)


def _as_stored(run: Run, number: int, pairs: Dataset, reference: str) -> Dataset:
    """The pairs with their fingerprints, and the seeds scored by the current policy if the recipe adds them."""
    model = run.config.model
    tokenizer = load_tokenizer(model.path, trust_remote_code=model.trust_remote_code)
    pairs = pairs.add_column("source", ["self"] * len(pairs))
    pairs = add_fingerprints(run, pairs, tokenizer, reference).select_columns(_COLUMNS)
    if not run.config.data.seeds_in_rounds:
        return pairs
    seeds = add_scores(run, run.load(SEEDS), run.policies.of_round(number - 1), POLICY_COLUMNS, who="policy")
    seeds = seeds.add_column("gap", stored_gaps(seeds, run.config.leader.beta).tolist()).select_columns(_COLUMNS)
    return concatenate_datasets([pairs, seeds.cast(pairs.features)])


def _with_too_long(counts: dict[str, Any], too_long: int) -> dict[str, Any]:
    """The counts, with the prompts that were too long to be answered among the dropped ones."""
    dropped = {**counts["dropped"], TOO_LONG: too_long}
    return {**counts, "prompts": counts["prompts"] + too_long, "dropped": dropped}


def _check_same_tokens(origins: dict[str, dict[str, Any]]) -> None:
    for part in ("tokenizer", "template", "max_length"):
        policy, reference = (origins[who][part] for who in SCORERS)
        if policy != reference:
            raise InputError(
                f"policy and reference scored with another {part} ({policy!r} and {reference!r}); allowed: the same, "
                "because the gaps must compare log-probabilities of the same tokens."
            )


def _about(run: Run, stage: str) -> dict[str, Any]:
    return read_json(run.root / stage / ABOUT)
