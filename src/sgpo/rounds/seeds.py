"""Human pairs, scored by the reference: the seeds, the validation pairs and the held-out pairs."""

from pathlib import Path

from datasets import Dataset

from sgpo.config import RunConfig
from sgpo.leader.scores import REFERENCE_COLUMNS
from sgpo.preferences.seeds import hold_out, select_seeds
from sgpo.preferences.source import load_pairs
from sgpo.rounds.context import Run
from sgpo.rounds.costs import Scale, StagePlan
from sgpo.rounds.scoring import add_fingerprints, add_scores

SEEDS, VALIDATION, HELDOUT = "seed/pairs", "validation/pairs", "heldout/pairs"


def prepare_human_pairs(run: Run) -> None:
    """Loads and scores the seed pairs, and the validation and held-out pairs that the recipe asks for."""
    data, alone = run.config.data, run.stages.alone
    alone(SEEDS, lambda path: _score(run, _seeds(run.config)[0], path))
    if run.config.validation_share:
        alone(VALIDATION, lambda path: _score(run, _seeds(run.config)[1], path))
    if data.heldout:
        alone(HELDOUT, lambda path: _score(run, load_pairs(data.heldout, split=data.heldout_split), path))


def plan_human_pairs(scale: Scale) -> list[StagePlan]:
    """The stages of `prepare_human_pairs`."""
    stages = [StagePlan(SEEDS, f"{scale.seeds} human pairs, scored by the reference")]
    if scale.validation:
        stages.append(StagePlan(VALIDATION, f"about {scale.validation} human pairs, never trained on by a round"))
    if scale.heldout:
        stages.append(StagePlan(HELDOUT, f"{scale.heldout} human pairs to report accuracy on"))
    return stages


def _seeds(config: RunConfig) -> tuple[Dataset, Dataset]:
    """Seed pairs and validation pairs."""
    data = config.data
    pairs = load_pairs(data.seeds, split=data.seeds_split)
    if data.seed_pairs is not None:
        pairs = select_seeds(pairs, data.seed_pairs, config.seed)
    share = config.validation_share
    return hold_out(pairs, share, config.seed) if share else (pairs, pairs.select([]))


def _score(run: Run, pairs: Dataset, path: Path) -> None:
    pairs = pairs.select_columns(["prompt", "chosen", "rejected"]).add_column("source", ["human"] * len(pairs))
    reference = run.policies.reference()
    pairs = add_scores(run, pairs, reference, REFERENCE_COLUMNS, who="reference")
    add_fingerprints(run, pairs, reference.tokenizer, run.policies.fingerprint_reference()).save_to_disk(path)
