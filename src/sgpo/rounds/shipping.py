"""Which round's policy a run ships: the latest one that the human pairs set aside support (PAPER.md D8)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk
from transformers import PreTrainedTokenizerBase

from sgpo.config import RunConfig
from sgpo.policy.load import load_tokenizer
from sgpo.policy.tokens import tokenize_responses
from sgpo.rounds.policies import Policies
from sgpo.rounds.validation import PAIRS, Validation
from sgpo.stats.acceptance import ENOUGH_PAIRS, LEVEL, latest_supported
from sgpo.stats.ranking import ranking_accuracy
from sgpo.store.stages import Stages

SHIPPED = "shipped.json"


class Shipping:
    """Looks at all rounds once they are done, from the last one back."""

    def __init__(self, config: RunConfig, stages: Stages, policies: Policies) -> None:
        self._config, self._stages, self._policies = config, stages, policies
        self._validation = Validation(config, stages, policies)
        self._root = stages.run.root

    def decide(self) -> None:
        """Where the recipe has it so, writes shipped.json: the round, the policy, and what the pairs said of each."""
        if self._config.chooses_round:
            self._validation.score(self._config.rounds)
            self._stages.alone(SHIPPED, self._write)

    @property
    def round(self) -> int | None:
        """The round that is shipped: the one decided on, or the last; None: the SFT model."""
        if not self._config.chooses_round:
            return self._config.rounds
        return json.loads((self._root / SHIPPED).read_text(encoding="utf-8"))["round"]

    def _write(self, path: Path) -> None:
        gaps = [self._validation.gaps(number) for number in range(self._config.rounds + 1)]
        control = self._extra_tokens() if self._config.leader.accept == "supported" else None
        path.write_text(json.dumps(self._decision(gaps, control), indent=2) + "\n", encoding="utf-8")

    def _path(self, number: int) -> str:
        number = self._policies.final if self._config.final_epochs else number
        return f"{self._policies.folder(number)}/policy"

    def _extra_tokens(self) -> np.ndarray:
        trust = self._config.model.trust_remote_code
        tokenizer = load_tokenizer(self._policies.path(0), trust_remote_code=trust)
        return extra_tokens(load_from_disk(self._root / PAIRS), tokenizer)

    def _decision(self, gaps: list[np.ndarray], control: np.ndarray | None) -> dict[str, Any]:
        shipment = latest_supported(gaps, control=control)
        place = shipment.place
        return {
            "round": place,
            "path": self._config.model.path if place is None else self._path(place),
            "pairs": len(gaps[0]),
            "enough": ENOUGH_PAIRS,
            "level": LEVEL,
            "rounds": [
                {
                    "round": number,
                    "score": found.score,
                    "p_value": found.p_value,
                    "threshold": float(threshold),
                    "accuracy": ranking_accuracy(row).accuracy,
                }
                for number, (found, threshold, row) in enumerate(
                    zip(shipment.evidence, shipment.thresholds, gaps, strict=True)
                )
            ],
        }


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
