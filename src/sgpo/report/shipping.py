"""Which round a run ships: the decision that the loop left in shipped.json, in words and as a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.errors import InputError


@dataclass(frozen=True)
class RoundEvidence:
    """What the human pairs set aside say of a round: score and p-value of their test, and what p had to be below."""

    round: int
    accuracy: float
    score: float
    p_value: float
    threshold: float


@dataclass(frozen=True)
class Shipped:
    """The round that a run ships.

    Attributes:
        round: its number; None: no round, but the SFT model.
        path: the policy's folder in the run directory, or the SFT model.
        pairs, enough: human pairs that were asked, and how many it takes to say something.
        evidence: of each round, in order.
    """

    round: int | None
    path: str
    pairs: int
    enough: int
    evidence: tuple[RoundEvidence, ...]

    @property
    def has_last_dpo(self) -> bool:
        """Whether the policy that is shipped is that of a last DPO on all human pairs."""
        return self.round is not None and self.path.startswith("final/")

    @property
    def sentence(self) -> str:
        """What to ship and why, in a sentence or two."""
        asked = f"{self.pairs} human pairs set aside"
        if self.round is None:
            return (
                f"Ship the SFT model ({self.path}): of no round do the {asked} say that its implicit reward orders "
                "responses as people do."
            )
        found, later = self.evidence[self.round], len(self.evidence) - 1 - self.round
        last = " after a last DPO on all human pairs" if self.has_last_dpo else ""
        return (
            f"Ship {name_of(self.round)}{last} ({self.path}): its order of the {asked} is supported, p = "
            f"{found.p_value:.2g}, below {found.threshold:.2g}"
            f"{f', and that of no later round is ({later} tested)' if later else ''}."
        )


def name_of(number: int) -> str:
    """A round as the report calls it."""
    return f"round {number}" if number else "DPO on the seeds"


def parse_shipped(content: dict[str, Any], path: Path) -> Shipped:
    """The content of shipped.json.

    Raises:
        InputError: a key is missing or holds something else; names the file.
    """
    try:
        evidence = tuple(
            RoundEvidence(
                int(row["round"]), *(float(row[key]) for key in ("accuracy", "score", "p_value", "threshold"))
            )
            for row in content["rounds"]
        )
        number = content["round"]
        if [one.round for one in evidence] != list(range(len(evidence))) or not (
            number is None or (type(number) is int and 0 <= number < len(evidence))
        ):
            raise ValueError(f"round {number!r} of {len(evidence)}")
        return Shipped(number, str(content["path"]), int(content["pairs"]), int(content["enough"]), evidence)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error!r}); allowed: what sgpo run writes.") from error
