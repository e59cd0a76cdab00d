r"""Real preferences as a world: a policy over responses of real models, and GPT-4's preferences as gold.

The data has up to 12 responses of different models to each prompt, each with the probability p that GPT-4-turbo prefers
it to the response of one common opponent, and no comparisons between these responses. Gold is therefore the log-odds
log p / (1 - p), the Bradley-Terry strength against the common opponent, and the probability that one response is
preferred to another is  sigma(gold_1 - gold_2).  Probabilities are clipped to [1e-5, 1 - 1e-5] (the judge reports five
digits); responses that are clipped alike are tied. The SFT policy samples the responses of a prompt uniformly. Human
labels are drawn from those probabilities, with the study's own noise.

Seeds, held-out pairs, pools and tests share no prompt; the seed draws the split. Features are scaled by mean and
standard deviation over all responses, which uses no label.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgpo.errors import InputError
from sgpo.store.files import read_objects
from sgpo_research.worlds.arrays import ArrayWorld, Candidates
from sgpo_research.worlds.noise import NO_NOISE, LabelNoise
from sgpo_research.worlds.pairs import draw_pairs
from sgpo_research.worlds.seed_choice import AT_RANDOM, SeedChoice
from sgpo_research.worlds.text_features import prompt_features, text_features

CUT = 1e-5
FILES = ("responses.jsonl.gz", "responses.jsonl")
_LEFT_OUT = "NullModel"


@dataclass(frozen=True)
class RealSettings:
    """How real prompts are split.

    Attributes:
        seeds, held_out, pools: shares of the prompts, in (0, 1); a round has a third of `pools`. The rest are tests.
        held_out_pairs: pairs of each held-out prompt, of different responses; other prompts have one pair.
        label_noise: of the seed, held-out and pool labels.
        beta: scale of the implicit reward.
    """

    seeds: float = 0.13
    held_out: float = 0.17
    pools: float = 0.4
    held_out_pairs: int = 4
    label_noise: LabelNoise = NO_NOISE
    beta: float = 0.1


def load_candidates(folder: str | Path) -> Candidates:
    """Prompts and their real responses.

    NullModel is left out: its constant response was made to fool the judge, so its win probability says nothing about
    quality.

    Args:
        folder: with responses.jsonl.gz or responses.jsonl, whose rows have `prompt`, `response`, `generator` and
            `win_probability` (0 to 1).

    Raises:
        InputError: no such file, an invalid row, or no prompt with two different responses.
    """
    path = next((Path(folder) / name for name in FILES if (Path(folder) / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder} holds neither {' nor '.join(FILES)}; allowed: a folder with one of them.")
    responses: dict[str, dict[str, float]] = defaultdict(dict)
    for where, row in read_objects(path):
        _check(row, where)
        if row["generator"] != _LEFT_OUT:
            responses[row["prompt"]].setdefault(row["response"], float(row["win_probability"]))
    kept = {prompt: found for prompt, found in responses.items() if len(found) > 1}
    if not kept:
        raise InputError(f"{path} has no prompt with two different responses; allowed: at least one.")
    return _as_arrays(kept)


def real_world(
    candidates: Candidates, settings: RealSettings, seed: int, *, choice: SeedChoice = AT_RANDOM
) -> ArrayWorld:
    """Splits real prompts into seeds, held-out pairs, pools and tests, and draws the labels.

    Seeds are chosen among the prompts of seeds and pools together; the others are the pools.

    Raises:
        InputError: too few prompts for one in each part.
    """
    divide, labels, pool_labels = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    count = len(candidates.gold)
    sizes = [round(share * count) for share in (settings.seeds, settings.held_out)]
    sizes += [round(settings.pools * count / 3)] * 3
    if min(sizes) < 1 or sum(sizes) >= count:
        raise InputError(f"{count} prompts are divided as {sizes} and a rest; allowed: at least one prompt in each.")
    order = divide.permutation(count)
    seeds, held_out, *pools, test = np.split(order, np.cumsum(sizes))
    offered = np.concatenate([seeds, *pools])
    chosen = choice.pick(candidates.embedding[offered], len(seeds))
    rest = np.setdiff1d(np.arange(len(offered)), chosen)
    pools = np.split(offered[rest], np.cumsum([len(pool) for pool in pools])[:-1])
    seeds, held_out, test, *pools = (candidates.take(rows) for rows in (offered[chosen], held_out, test, *pools))
    noise = settings.label_noise
    return ArrayWorld(
        seeds=draw_pairs(seeds, noise, labels),
        held_out=draw_pairs(held_out, noise, labels, per_prompt=settings.held_out_pairs),
        labelled=draw_pairs(Candidates.concatenate(pools), noise, pool_labels),
        pools=tuple(pools),
        test=test,
        beta=settings.beta,
    )


def _check(row: dict[str, Any], where: str) -> None:
    for key in ("prompt", "response", "generator"):
        if not isinstance(row.get(key), str):
            raise InputError(f"{where}: {key} is {row.get(key)!r}; allowed: a text.")
    probability = row.get("win_probability")
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise InputError(f"{where}: win_probability is {probability!r}; allowed: a number in [0, 1].")


def _as_arrays(responses: dict[str, dict[str, float]]) -> Candidates:
    prompts, most = list(responses), max(map(len, responses.values()))
    rows = [(place, slot) for place, prompt in enumerate(prompts) for slot in range(len(responses[prompt]))]
    found = np.array([text_features(prompt, text) for prompt in prompts for text in responses[prompt]])
    spread = found.std(axis=0)
    found = (found - found.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    shape, (place, slot) = (len(prompts), most), np.array(rows).T
    features, gold, length = np.zeros((*shape, found.shape[1]), np.float32), np.zeros(shape), np.zeros(shape)
    log_ref = np.full(shape, -np.inf)
    features[place, slot] = found
    chances = np.clip([p for prompt in prompts for p in responses[prompt].values()], CUT, 1 - CUT)
    gold[place, slot] = np.log(chances) - np.log1p(-chances)
    length[place, slot] = [math.log1p(len(text)) for prompt in prompts for text in responses[prompt]]
    log_ref[place, slot] = -np.log([len(responses[prompts[index]]) for index in place])
    asked = np.array([prompt_features(prompt) for prompt in prompts])
    return Candidates(features, log_ref, gold, length, asked)
