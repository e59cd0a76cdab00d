"""The pairs of a run with their scores: human ones, and the responses of a round that become self-annotated ones."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase

from sgpo.config import RunConfig
from sgpo.errors import InputError
from sgpo.leader.scores import FINGERPRINT_COLUMN, POLICY_COLUMNS, REFERENCE_COLUMNS, stored_gaps
from sgpo.policy.fingerprints import fingerprint_pairs
from sgpo.policy.load import Policy
from sgpo.policy.sampling import Response
from sgpo.policy.score import score_pairs
from sgpo.preferences.annotate import adjust_for_length, annotate_pairs, implicit_rewards
from sgpo.preferences.source import load_pairs
from sgpo.preferences.split import hold_out
from sgpo.rounds.context import Run
from sgpo.rounds.costs import Scale, StagePlan
from sgpo.rounds.data import drawn_seeds
from sgpo.rounds.responses import SCORERS, TOO_LONG, open_heads
from sgpo.stats.heads import LEAST
from sgpo.store.files import read_json, write_json
from sgpo.store.stages import ABOUT

SEEDS, VALIDATION, HELDOUT = "seed/pairs", "validation/pairs", "heldout/pairs"
COUNTS, HEADS = "annotation.json", "heads/heads.json"
_COLUMNS = ["prompt", "chosen", "rejected", "source", *POLICY_COLUMNS, *REFERENCE_COLUMNS, FINGERPRINT_COLUMN, "gap"]


def prepare_human_pairs(run: Run) -> None:
    """Loads and scores the seed pairs, and the validation and held-out pairs and reward heads that the recipe wants."""
    config, data = run.config, run.config.data
    _score_human_pairs(run, SEEDS, lambda: _load_seeds(config)[0])
    if config.validation_share:
        _score_human_pairs(run, VALIDATION, lambda: _load_seeds(config)[1])
    if data.heldout:
        _score_human_pairs(run, HELDOUT, lambda: load_pairs(data.heldout, split=data.heldout_split))
    if config.annotation.annotator == "heads" and config.rounds:
        run.stages.alone("heads", lambda path: _fit_heads(run, path))


def plan_human_pairs(config: RunConfig, scale: Scale) -> list[StagePlan]:
    """The stages of `prepare_human_pairs`; hours are those of the reference and of the policies of all rounds."""
    models, last = 2 + config.rounds, bool(config.final_epochs)
    rows = (
        (SEEDS, "{} human pairs, scored by the reference", scale.seeds, 1),
        (VALIDATION, "about {} human pairs, never trained on by a round", scale.validation, models),
        (HELDOUT, "{} human pairs to report accuracy on", scale.heldout, models + last),
    )
    stages = [
        StagePlan(name, work.format(count), scale.hours(config.hardware, times * 2 * count * scale.human_tokens))
        for name, work, count, times in rows
        if count
    ]
    if config.annotation.annotator == "heads" and config.rounds:
        if scale.seeds < LEAST:
            raise InputError(f"annotation.annotator: 'heads' with {scale.seeds} seed pairs; allowed: at least {LEAST}.")
        work = f"linear rewards of hidden states, fitted on {scale.seeds} human pairs"
        hours = scale.hours(config.hardware, 2 * scale.seeds * scale.human_tokens)
        stages.append(StagePlan("heads", work, hours))
    return stages


def _fit_heads(run: Run, path: Path) -> None:
    pairs = run.load(SEEDS)
    with run.reporter.bar("embedding the seeds", len(pairs)) as advance:
        heads, about = open_heads(run).fit(pairs, seed=run.stages.seed("heads"), progress=advance)
    write_json(path / Path(HEADS).name, about)
    save_file(heads._asdict(), path / "heads.safetensors")


def _load_seeds(config: RunConfig) -> tuple[Dataset, Dataset]:
    """Seed pairs and validation pairs."""
    data, share = config.data, config.validation_share
    pairs = drawn_seeds(config, load_pairs(data.seeds, split=data.seeds_split))
    return hold_out(pairs, share, config.seed) if share else (pairs, pairs.select([]))


def _score_human_pairs(run: Run, stage: str, load: Callable[[], Dataset]) -> None:
    def work(path: Path) -> None:
        pairs = load().select_columns(["prompt", "chosen", "rejected"])
        pairs = pairs.add_column("source", ["human"] * len(pairs))
        reference = run.policy(None)
        pairs = add_scores(run, pairs, reference, "reference")
        _add_fingerprints(run, pairs, reference.tokenizer, run.fingerprint(None)).save_to_disk(path)

    run.stages.alone(stage, work)


def add_scores(run: Run, pairs: Dataset, policy: Policy, who: str) -> Dataset:
    """Adds the policy's or the reference's summed log-probabilities of both responses of N pairs, in nats.

    Prompt and response together are cut at `leader.max_length`.
    """
    with run.reporter.bar(f"scoring by the {who}", 2 * len(pairs)) as advance:
        scores = score_pairs(policy, pairs, max_length=run.config.leader.max_length, progress=advance)
    columns = POLICY_COLUMNS if who == "policy" else REFERENCE_COLUMNS
    for column, logps in zip(columns, (scores.chosen, scores.rejected), strict=True):
        pairs = pairs.add_column(column, logps.tolist())
    return pairs


def gaps_under(run: Run, stage: str, policy: Policy) -> np.ndarray:
    """Gaps of a stage's N pairs under a policy, (N,) in nats."""
    return stored_gaps(add_scores(run, run.load(stage), policy, "policy"), run.config.leader.beta)


def _add_fingerprints(run: Run, pairs: Dataset, tokenizer: PreTrainedTokenizerBase, reference: str) -> Dataset:
    """Adds the fingerprints of the reference that scored a pair, and of the pair's tokens."""
    max_length = run.config.leader.max_length
    return pairs.add_column(FINGERPRINT_COLUMN, fingerprint_pairs(pairs, tokenizer, reference, max_length=max_length))


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
    rows, settings = run.load(f"{folder}/responses"), config.annotation
    scores = {who: run.load(f"{folder}/scores/{who}") for who in SCORERS}
    origins = {who: _about(run, f"{folder}/scores/{who}") for who in SCORERS}
    _check_same_tokens(origins)
    logps = {who: np.array(scores[who]["logps"]) for who in SCORERS}
    extra: dict[str, Any] = {"scored": {who: origins[who]["scored"] for who in SCORERS}}
    if settings.annotator == "implicit":
        rewards = implicit_rewards(logps["policy"], logps["reference"], config.leader.beta)
    else:
        rewards = np.array(run.load(f"{folder}/rewards")["reward"])
        extra["ranking"] = _about(run, f"{folder}/rewards")
    # What was not scored makes no pair, whatever its length.
    lengths = np.maximum(scores["policy"]["n_tokens"], 1)
    found = zip(rows["responses"], rows["finish_reasons"], rows["n_tokens"], strict=True)
    annotation = annotate_pairs(
        rows["prompt"][:],
        [list(map(Response, *row)) for row in found],
        adjust_for_length(rewards, lengths, per_token=settings.per_token, penalty=settings.length_penalty),
        policy_logps=logps["policy"],
        reference_logps=logps["reference"],
        beta=config.leader.beta,
        choice=settings.choice,
        min_margin=settings.min_margin,
        seed=run.stages.seed(f"{folder}/pairs"),
    )
    # Prompts that were too long to be answered are dropped ones, too.
    counts, too_long = annotation.counts, _about(run, f"{folder}/responses")[TOO_LONG]
    prompts, drops = counts["prompts"] + too_long, {**counts["dropped"], TOO_LONG: too_long}
    counts = {**counts, "prompts": prompts, "dropped": drops}
    if counts["pairs"] == 0:
        raise InputError(
            f"round {number}: no pair left of {len(rows)} prompts ({drops}); allowed: at least one. Raise "
            "generation.temperature, generation.candidates or generation.max_new_tokens."
        )
    pairs = _as_stored(run, number, annotation.pairs, origins["reference"]["model"])
    pairs.save_to_disk(path)
    write_json(path / COUNTS, {**counts, **extra})
    notes.update(rows=len(pairs), prompts=prompts, paired=counts["paired"], dropped=prompts - counts["paired"])


def _as_stored(run: Run, number: int, pairs: Dataset, reference: str) -> Dataset:
    """The pairs with their fingerprints, and the seeds scored by the current policy if the recipe adds them."""
    pairs = pairs.add_column("source", ["self"] * len(pairs))
    pairs = _add_fingerprints(run, pairs, run.tokenizer(None), reference).select_columns(_COLUMNS)
    if not run.config.data.seeds_in_rounds:
        return pairs
    seeds = add_scores(run, run.load(SEEDS), run.policy(number - 1), "policy")
    seeds = seeds.add_column("gap", stored_gaps(seeds, run.config.leader.beta).tolist()).select_columns(_COLUMNS)
    return concatenate_datasets([pairs, seeds.cast(pairs.features)])


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


def round_pairs(run: Run, number: int) -> Dataset:
    """The pairs of a round with the scores of the reference that the recipe names; the seeds in round 0."""
    pairs = run.load(f"round-{number}/pairs" if number else SEEDS)
    reference = run.reference(number)
    if reference is None:
        return pairs
    # The reference is the policy that the round starts from, and it has scored these pairs.
    pairs = pairs.remove_columns([*REFERENCE_COLUMNS, FINGERPRINT_COLUMN])
    for own, column in zip(POLICY_COLUMNS, REFERENCE_COLUMNS, strict=True):
        pairs = pairs.add_column(column, pairs[own][:])
    return _add_fingerprints(run, pairs, run.tokenizer(reference), reference_fingerprint(run, number))


def reference_fingerprint(run: Run, number: int) -> str:
    """The fingerprint of a round's reference, which its pairs must carry."""
    reference = run.reference(number)
    if reference is not None:
        return run.fingerprint(reference)
    # The model that scored the seeds is the reference of the whole run, whatever is at its path now.
    return run.load(SEEDS)[0][FINGERPRINT_COLUMN].partition(":")[0]
