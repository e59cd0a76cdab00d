"""The pairs and prompts of a run: named one by one, or drawn from preference datasets."""

from typing import Annotated

from pydantic import Field

from sgpo.choices import Selection
from sgpo.config.section import Count, CountOrZero, Place, Positive, Section, ShareBelowOne, key


class SourceConfig(Section):
    """A dataset of preference pairs, and its share of a mixture."""

    path: Place = key(..., "File, folder or Hub id.")
    weight: Positive = key(1.0, "Its share of the rows, relative to the other sources.")
    split: str | None = key(None, "Split of the dataset, if it has any; null: train.")


class SplitConfig(Section):
    """Seeds, pools and held-out pairs, drawn from preference datasets so that no two of them share a prompt."""

    sources: Annotated[list[SourceConfig], Field(min_length=1)] = key(..., "The preference datasets.")
    seeds: Count = key(2000, "Seed pairs.")
    pools: list[Count] = key(..., "Prompts of each round.")
    heldout: CountOrZero = key(0, "Held-out pairs.")
    selection: Selection = key(
        "random", "How seeds are chosen: at random, or as farthest points of the SFT model's hidden states."
    )
    max_prompt_chars: Count | None = key(None, "Prompts with more characters are dropped.")


class DataConfig(Section):
    """Human pairs to start from, prompts to annotate, and human pairs to evaluate on."""

    seeds: Place | None = key(None, "Preference pairs: file, folder or Hub id.")
    seeds_split: str | None = key(None, "Split of the seeds, if they have any; null: train.")
    seed_pairs: Count | None = key(None, "How many of them to draw at random; null: all.")
    prompts: Place | list[Place] | None = key(
        None, "Prompts to annotate: file, folder or Hub id; a list gives each round its own."
    )
    prompts_split: str | None = key(None, "Split of the prompts; null: train.")
    prompts_per_round: Count | list[Count] | None = key(
        None, "Fresh prompts per round: a number, a list, or null for an even share of the pool."
    )
    heldout: Place | None = key(None, "Human pairs to report accuracy on; never trained on.")
    heldout_split: str | None = key(None, "Split of the held-out pairs; null: train.")
    split: SplitConfig | None = key(None, "Draws all of these from preference datasets; see below.")
    validation_share: ShareBelowOne | None = key(
        None, "Share of the seeds' prompts for validation pairs; null: 0.2 if they are needed, else 0."
    )
    seeds_in_rounds: bool = key(False, "Add the seed pairs to the self-annotated pairs of every round.")
