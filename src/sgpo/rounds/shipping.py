"""Which round's policy a run ships: the latest one that the validation pairs support (PAPER.md D8)."""

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from sgpo.config import RunConfig
from sgpo.policy.load import load_tokenizer
from sgpo.policy.tokens import tokenize_responses
from sgpo.rounds.context import Run
from sgpo.rounds.costs import StagePlan
from sgpo.rounds.seeds import VALIDATION
from sgpo.rounds.validation import score_validation_pairs, validation_gaps
from sgpo.stats.acceptance import ENOUGH_PAIRS, LEVEL, latest_supported
from sgpo.stats.ranking import ranking_accuracy
from sgpo.store.records import Evidence, Shipped

SHIPPED = "shipped.json"


def choose_round(run: Run) -> int | None:
    """Writes shipped.json if the recipe chooses a round at the end.

    Returns: the round that is shipped: the chosen one, or the last; None for the SFT model.
    """
    if not run.config.chooses_round:
        return run.config.rounds
    score_validation_pairs(run, run.config.rounds)
    run.stages.alone(SHIPPED, lambda path: _choose(run).write(path))
    return Shipped.read(run.root / SHIPPED).round


def plan_choice(config: RunConfig) -> list[StagePlan]:
    """The stage of `choose_round`."""
    work = "the latest round that the validation pairs support, or the SFT model"
    return [StagePlan(SHIPPED, work)] if config.chooses_round else []


def _choose(run: Run) -> Shipped:
    gaps = [validation_gaps(run, f"round-{number}") for number in range(run.config.rounds + 1)]
    control = _extra_tokens_of_run(run) if run.config.leader.accept == "supported" else None
    shipment = latest_supported(gaps, control=control)
    return Shipped(
        round=shipment.place,
        path=_shipped_path(run, shipment.place),
        pairs=len(gaps[0]),
        enough=ENOUGH_PAIRS,
        level=LEVEL,
        rounds=[
            Evidence(
                round=number,
                score=found.score,
                p_value=found.p_value,
                threshold=float(threshold),
                accuracy=ranking_accuracy(row).accuracy,
            )
            for number, (found, threshold, row) in enumerate(
                zip(shipment.evidence, shipment.thresholds, gaps, strict=True)
            )
        ],
    )


def _shipped_path(run: Run, number: int | None) -> str:
    if number is None:
        return run.config.model.path
    return f"{run.policies.folder(run.policies.final if run.config.final_epochs else number)}/policy"


def _extra_tokens_of_run(run: Run) -> np.ndarray:
    trust = run.config.model.trust_remote_code
    return extra_tokens(run.load(VALIDATION), load_tokenizer(run.policies.path(0), trust_remote_code=trust))


def extra_tokens(pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """How many tokens the chosen response of each of N pairs is longer than the rejected one, (N,) float64."""
    chosen, rejected = (
        np.array([
            len(row.response_ids)
            for row in tokenize_responses(tokenizer, pairs["prompt"][:], [one[0]["content"] for one in pairs[side]])
        ])
        for side in ("chosen", "rejected")
    )  # fmt: skip
    return (chosen - rejected).astype(np.float64)
