"""The world of checkable requests as files: seeds, held-out pairs and prompts of a run, and test prompts."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgpo.choices import check_choice
from sgpo.errors import InputError, check_whole
from sgpo.policy.sampling import Generator, Sampling
from sgpo.store.files import write_json, write_jsonl
from sgpo.store.progress import Reporter
from sgpo_research.worlds.constraints import CONSTRAINTS
from sgpo_research.worlds.gold_pairs import GoldPair, gold_pair, label
from sgpo_research.worlds.noise import Labels
from sgpo_research.worlds.prompts import Prompt, constraints_of, draw_prompts, split_requests
from sgpo_research.worlds.samples import SHARD, Sampled, sample_responses

SAMPLING = Sampling(n=8, temperature=0.9, top_p=0.95, max_new_tokens=96)
# Prompts sampled for each pair that is wanted: many make none, because their responses do not differ in gold.
_PROMPTS_PER_PAIR = 2
# The number of a part's first prompt, and what its prompts are drawn with. Those of the pools also depend on the seed.
_PARTS = {"seeds": 0, "heldout": 100_000, "pool": 200_000, "test_seen": 300_000, "test_unseen": 400_000}


@dataclass(frozen=True)
class WorldSize:
    """How many there are of what.

    Attributes:
        seeds: seed pairs.
        heldout: held-out pairs.
        pool: prompts of a round.
        rounds: rounds.
        test: prompts in each of the test files.
        sampled: prompts that are sampled to make seeds and held-out pairs; None: two for each pair.

    Raises:
        InputError: a number is below 1.
    """

    seeds: int = 60
    heldout: int = 100
    pool: int = 64
    rounds: int = 3
    test: int = 64
    sampled: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "heldout", "pool", "rounds", "test"):
            check_whole(f"--{name}", getattr(self, name), 1)
        for count in self.sampled or ():
            check_whole("--sampled", count, 1)


@dataclass(frozen=True)
class Annotator:
    """Who labels the seeds: the kind of errors, and for "inverted" the types of constraints."""

    labels: Labels = "clean"
    inverted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("--labels", self.labels, Labels)
        if (self.labels == "inverted") != bool(self.inverted):
            given = " ".join(self.inverted) or "missing"
            raise InputError(f"--inverted is {given} with --labels {self.labels}; allowed: types, with inverted alone.")
        known = [constraint.name for constraint in constraints_of("seeds")]
        if unknown := set(self.inverted).difference(known):
            raise InputError(f"--inverted is {sorted(unknown)[0]!r}; allowed: {', '.join(known)}.")


def write_world(
    output: Path,
    *,
    size: WorldSize,
    annotator: Annotator,
    seed: int,
    model: str,
    open_generator: Callable[[], Generator],
    batch_size: int,
    reporter: Reporter,
) -> dict[str, Any]:
    """Writes the files of a run, in the folder LABELS-SEED of `output`.

    Responses are sampled once, into the folder `samples`: data seeds draw their pairs from them, and annotators label
    the same pairs. Test prompts are the same for all; the prompts of the rounds are those of the data seed.

    Args:
        output: parent of the folder, and of `samples`.
        size: how many there are of what.
        annotator: who labels the seeds; held-out pairs are in gold order.
        seed: the data seed, >= 0.
        model: fingerprint of the model that answers, and its dtype.
        open_generator: loads it, if responses are missing.
        batch_size: of that generator.
        reporter: where progress is shown.

    Returns: the content of summary.json.

    Raises:
        InputError: too few prompts make a pair, or the samples are those of another model.
    """
    check_whole("--seed", seed, 0)
    folder = output / f"{'-'.join([annotator.labels, *annotator.inverted])}-{seed}"
    sampled: dict[str, list[Sampled]] = {}
    pairs: dict[str, list[GoldPair]] = {}
    counts = {"seeds": size.seeds, "heldout": size.heldout}
    for place, (part, wanted) in enumerate(counts.items()):
        asked = size.sampled[place] if size.sampled else _PROMPTS_PER_PAIR * wanted
        prompts = part_prompts(part, -(-asked // SHARD) * SHARD)
        sampled[part] = sample_responses(
            output / "samples",
            part,
            prompts,
            SAMPLING,
            model=model,
            open_generator=open_generator,
            batch_size=batch_size,
            reporter=reporter,
        )
        pairs[part] = _draw_pairs(sampled[part], wanted, part, seed)
    labelled = label(pairs["seeds"], annotator.labels, np.random.default_rng([seed, 1]), inverted=annotator.inverted)
    prompts = {
        "prompts": part_prompts("pool", size.rounds * size.pool, seed=seed),
        **{part: part_prompts(part, size.test) for part in ("test_seen", "test_unseen")},
    }
    summary = {
        "seed": seed,
        "labels": annotator.labels,
        "inverted": list(annotator.inverted),
        "model": model,
        "types": type_rates([one for part in sampled.values() for one in part]),
        "cut": _cut_share(sampled),
        "pairs": {name: _describe(found) for name, found in (("seeds", labelled), ("heldout", pairs["heldout"]))},
        "prompts": {name: len(found) for name, found in prompts.items()},
    }
    write_jsonl(folder / "seeds.jsonl", [pair.row for pair in labelled])
    write_jsonl(folder / "heldout.jsonl", [pair.row for pair in pairs["heldout"]])
    for name, found in prompts.items():
        write_jsonl(folder / f"{name}.jsonl", [prompt.row for prompt in found])
    write_json(folder / "summary.json", summary)
    return summary | {"folder": str(folder)}


def part_prompts(part: str, count: int, *, seed: int | None = None) -> list[Prompt]:
    """The first prompts of a part, of its own requests and types; those of the pools depend on the data seed."""
    requests = split_requests()["test" if part.startswith("test") else part]
    groups = {"seeds": ("seeds",), "test_seen": ("seeds",), "test_unseen": ("pools", "test")}
    first = _PARTS[part]
    return draw_prompts(
        requests, constraints_of(*groups.get(part, ("seeds", "pools"))), count,
        seed=[first] if seed is None else [first, seed], first_key=first,
    )  # fmt: skip


def type_rates(sampled: Sequence[Sampled]) -> dict[str, dict[str, Any]]:
    """By type, what finished responses do: the share that follow, and the share of prompts on which they differ."""
    held: dict[str, list[list[bool]]] = {}
    for one in sampled:
        for place, drawn in enumerate(one.prompt.constraints):
            if outcomes := [follows[place] for _, follows in one.outcomes]:
                held.setdefault(drawn.constraint.name, []).append(outcomes)
    return {
        constraint.name: {
            "instruction": constraint.instruction,
            "group": constraint.group,
            "prompts": len(found),
            "follows": sum(map(sum, found)) / sum(map(len, found)),
            "mixed": sum(len(set(outcomes)) > 1 for outcomes in found) / len(found),
        }
        for constraint in CONSTRAINTS
        if (found := held.get(constraint.name))
    }


def _draw_pairs(sampled: Sequence[Sampled], wanted: int, part: str, seed: int) -> list[GoldPair]:
    found = [pair for one in sampled if (pair := gold_pair(one, np.random.default_rng([one.prompt.key]))) is not None]
    if len(found) < wanted:
        raise InputError(
            f"--{part} is {wanted}; the responses to {len(found)} of {len(sampled)} prompts differ in gold. Allowed: "
            f"up to {len(found)}, or a larger --sampled."
        )
    order = np.random.default_rng([seed, _PARTS[part]]).permutation(len(found))
    return [found[place] for place in order[:wanted]]


def _cut_share(sampled: dict[str, list[Sampled]]) -> float:
    reasons = Counter(reason for part in sampled.values() for one in part for reason in one.finish_reasons)
    return 1 - reasons["stop"] / reasons.total()


def _describe(pairs: Sequence[GoldPair]) -> dict[str, Any]:
    rows = [pair.row for pair in pairs]
    return {
        "pairs": len(rows),
        "against_gold": sum(row["gold_chosen"] < row["gold_rejected"] for row in rows) / len(rows),
        "chosen_longer": sum(len(row["chosen"]) > len(row["rejected"]) for row in rows) / len(rows),
    }
