"""What methods with a real language model have gained: means over data seeds, and gains paired by prompt and seed."""

import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sgpo.stats.intervals import mean_interval
from sgpo_research.summary import mean_of

Place = tuple[str, int, str, str]  # labels, seed, method, policy
# What others are compared with: a method is worth its ball, or its rounds, only where it is above these.
_PLAIN = ("iterative DPO", "DPO twice")


class Gain(NamedTuple):
    """A difference of gold, its 95% interval over prompts with these seeds, and Student's over seeds (nan for one)."""

    mean: float
    low: float
    high: float
    seeds_low: float
    seeds_high: float
    seeds: int


def gain(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Gain:
    """The gain of a policy over another, from the mean gold of both at the same P prompts, (P,), for each seed."""
    differences = np.stack([after - before for after, before in pairs])
    prompts = np.tile(np.arange(differences.shape[1]), len(pairs))
    over_prompts = mean_interval(differences.ravel(), prompts)
    over_seeds = mean_of(differences.mean(axis=1).tolist())
    return Gain(over_prompts.mean, over_prompts.low, over_prompts.high, over_seeds.low, over_seeds.high, len(pairs))


def gains_table(gold: dict[Place, dict[str, np.ndarray]]) -> str:
    """A Markdown table: by annotator, method and policy the gold, and the gains over the SFT model and over round 0.

    `gold` has the mean gold of each test prompt by part, of every policy.
    """
    lines = [
        "| labels | method | policy | seeds | gold | over SFT | over round 0 | of seeds | seen types | unseen types |",
        "| -- | -- | -- | -- | -- | -- | -- | -- | -- | -- |",
    ]
    for labels, method in dict.fromkeys((labels, method) for labels, _, method, _ in gold):
        mine = [place[3] for place in gold if (place[0], place[2]) == (labels, method) and place[3] != "sft"]
        for policy in dict.fromkeys(mine):
            seeds = [place[1] for place in gold if place == (labels, place[1], method, policy)]
            at = {name: [gold[labels, seed, method, name] for seed in seeds] for name in ("sft", "round-0", policy)}
            lines.append("| " + " | ".join(_cells(labels, method, policy, at)) + " |")
    return "\n".join(lines) + "\n"


def _cells(labels: str, method: str, policy: str, at: dict[str, list[dict[str, np.ndarray]]]) -> Iterable[str]:
    whole = {name: [np.concatenate(list(one.values())) for one in golds] for name, golds in at.items()}
    mean = np.mean([values.mean() for values in whole[policy]])
    over_sft = gain(list(zip(whole[policy], whole["sft"], strict=True)))
    over_seeds = gain(list(zip(whole[policy], whole["round-0"], strict=True)))
    parts = [
        _shown(gain([(now[part], before[part]) for now, before in zip(at[policy], at["sft"], strict=True)]))
        for part in ("seen", "unseen")
    ]
    yield from (labels, method, policy, str(len(whole[policy])), f"{mean:.3f}", _shown(over_sft), _shown(over_seeds))
    yield from (_between(over_seeds), *parts)


def _between(found: Gain) -> str:
    return "" if math.isnan(found.seeds_low) else f"{found.seeds_low:+.3f} to {found.seeds_high:+.3f}"


def _shown(found: Gain) -> str:
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def comparisons_table(gold: dict[Place, dict[str, np.ndarray]]) -> str:
    """A Markdown table: the last round of each method, and what it ships, against the methods without ball or rounds.

    Each compares what both have done, with the same seeds; `gold` is as in `gains_table`. What is shipped is the SFT
    model where a run ships no round: to compare the last DPO alone would select seeds by their outcome.
    """
    lines = ["| labels | policy | of | against | seeds | gold | difference | of seeds |", "| -- " * 8 + "|"]
    methods = dict.fromkeys(method for _, _, method, _ in gold)
    pairs = [(one, other) for place, other in enumerate(_PLAIN) for one in methods if one not in _PLAIN[place:]]
    for labels in dict.fromkeys(place[0] for place in gold):
        for policy, (method, other) in product((_last_round(gold, labels), "shipped"), pairs):
            seeds = [place[1] for place in gold if place == (labels, place[1], method, policy)]
            if seeds := [seed for seed in seeds if (labels, seed, other, policy) in gold]:
                mine, theirs = (
                    [np.concatenate(list(gold[labels, seed, name, policy].values())) for seed in seeds]
                    for name in (method, other)
                )
                found = gain(list(zip(mine, theirs, strict=True)))
                means = f"{np.mean(mine):.3f} against {np.mean(theirs):.3f}"
                cells = (labels, policy, method, other, str(len(seeds)), means, _shown(found), _between(found))
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _last_round(gold: Iterable[Place], labels: str) -> str:
    rounds = [int(place[3].removeprefix("round-")) for place in gold if place[0] == labels and place[3][:6] == "round-"]
    return f"round-{max(rounds, default=0)}"


def write_results(output: Path, rows: list[dict[str, Any]], gold: dict[Place, dict[str, np.ndarray]]) -> str:
    """Writes rows.jsonl, results.md and gold_by_kl.svg; returns the tables of results.md."""
    from sgpo.store.files import write_atomically, write_jsonl
    from sgpo_research.figures.gold_by_kl import gold_by_kl
    from sgpo_research.figures.style import as_svg

    table = gains_table(gold) + "\n" + comparisons_table(gold)
    write_jsonl(output / "rows.jsonl", rows)
    write_atomically(output / "results.md", table)
    write_atomically(output / "gold_by_kl.svg", as_svg(gold_by_kl(rows), "Gold against KL to the SFT model"))
    return table
