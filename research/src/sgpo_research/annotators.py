"""Diagnosis: how the annotators that seed pairs can buy order held-out pairs, before any round is run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from sgpo.choices import Pooling
from sgpo.config import RunConfig, validate
from sgpo.config.options import HeadsOptions
from sgpo.errors import InputError, check_whole, naming_rows
from sgpo.policy.embed import embed_responses
from sgpo.policy.generators import load_model
from sgpo.policy.load import Policy
from sgpo.policy.score import PairScores, score_pairs
from sgpo.policy.tokens import dated, response_texts
from sgpo.preferences.layout import prompt_key
from sgpo.preferences.source import load_pairs
from sgpo.rounds.data import places, with_files
from sgpo.stats.heads import fit_heads, fit_weights
from sgpo.stats.intervals import mean_interval
from sgpo.stats.ranking import ranking_accuracy
from sgpo.store.files import name_row, read_yaml
from sgpo.store.run_dir import start_of

IMPLICIT, LONGER, SHORTER = "implicit reward", "longer wins", "shorter wins"
POOLINGS = Pooling.__args__
# The column of a pair's constraint types.
TYPES = "types"


class Accuracy(NamedTuple):
    """Share of pairs ordered right, ties counted half, with its 95% interval."""

    accuracy: float
    low: float
    high: float
    pairs: int


def diagnose(
    run: Path, pairs: str, *, seeds: str | None = None, number: int = 0, penalty: float = HeadsOptions().penalty
) -> dict[str, Any]:
    """Accuracy of every annotator on held-out pairs, whole and in parts.

    Args:
        run: a run directory with `seed/pairs` and the policy of round `number`.
        pairs: held-out pairs; a column `types` has the constraint types of each, a list of texts or one text.
        seeds: pairs with a column `types`, those that were seen; None: the file that the recipe names.
        number: the round of the policy whose implicit reward is one annotator.
        penalty: standard deviations over the heads that are subtracted.

    Returns: JSON values: `annotators`, by name and part the accuracy with its interval; `differences`, the heads' less
        the implicit reward's; `heads`, what was chosen for them on the seeds; `verdict`, a sentence.

    Raises:
        InputError: no such run, pairs or round, or pairs that cannot be scored; the row is named.
    """
    check_whole("--round", number, 0)
    config, policy = _read_config(run), run / f"round-{number}" / "policy"
    for path, what in ((run / "seed" / "pairs", "seed pairs"), (policy, f"policy of round {number}")):
        if not path.is_dir():
            raise InputError(f"{run} has no {what}: {path} does not exist; allowed: a run that has finished it.")
    options = validate(HeadsOptions, {"penalty": penalty}, "--penalty")
    with dated(start_of(run)):
        rows = load_pairs(pairs)
        keys = [prompt_key(prompt) for prompt in rows["prompt"]]
        if len(set(keys)) < 2:
            raise InputError(f"--pairs: {pairs} has pairs of one prompt; allowed: of at least two.")
        types = _types(rows, pairs)
        gaps, about = _gaps(config, run, policy, rows, pairs, options)
    parts = _parts(gaps[LONGER], types, _seen_types(config, seeds) if types else None)
    table = {name: {part: _accuracy(each, keys, kept) for part, kept in parts.items()} for name, each in gaps.items()}
    shares = {name: np.where(np.isnan(each), 0.5, (np.sign(each) + 1) / 2) for name, each in gaps.items()}
    less = {name: mean_interval(shares[name] - shares[IMPLICIT], keys) for name in gaps if name.startswith("heads")}
    differences = {name: one._asdict() for name, one in less.items()}
    return {
        "run": str(run),
        "pairs": len(rows),
        "prompts": len(set(keys)),
        "heads": about,
        "annotators": {name: {part: one and one._asdict() for part, one in row.items()} for name, row in table.items()},
        "differences": differences,
        "verdict": judge(table, {name: one for name, one in differences.items() if about["pooling"] in name}),
    }


def judge(table: dict[str, dict[str, Accuracy | None]], differences: dict[str, dict[str, Any]]) -> str:
    """Whether a follower has an annotator to build on, and which."""
    whole = {name: row["all"] for name, row in table.items()}
    above = sorted((name for name in whole if whole[name].low > 0.5), key=lambda name: -whole[name].accuracy)
    if not above:
        return (
            "No annotator orders the held-out pairs better than chance (every 95% interval reaches 0.5): no follower "
            "can help here."
        )
    best = whole[above[0]]
    found = f"Best on the held-out pairs: {above[0]}, {best.accuracy:.3f} ({best.low:.3f} to {best.high:.3f})"
    found += f"; better than chance are {', '.join(above)}, of {len(whole)} (by chance alone, one in 40 would be)."
    if set(above) <= {LONGER, SHORTER}:
        found += " Only a rule of length is: self-annotation would teach length."
    for name, one in differences.items():
        how = "better" if one["low"] > 0 else "worse" if one["high"] < 0 else "not clearly better or worse"
        found += (
            f" {name[0].upper()}{name[1:]}: {how} than the implicit reward ({one['mean']:+.3f}, {one['low']:+.3f} to "
            f"{one['high']:+.3f})."
        )
    return found


def as_markdown(found: dict[str, Any]) -> str:
    """The diagnosis as a page: all pairs and the parts by length and by types seen, then each type."""
    table = found["annotators"]
    parts = list(table[IMPLICIT])
    main = [part for part in parts if not part.startswith("type ")]
    lines = [
        f"{found['pairs']:,} held-out pairs of {found['prompts']:,} prompts; 95% intervals, which count prompts where "
        "pairs share them; ties count half.",
        "",
        found["verdict"],
        "",
        *_grid(["annotator", *main], [[name, *(_cell(row[part]) for part in main)] for name, row in table.items()]),
    ]
    if kinds := parts[len(main) :]:
        lines += ["", *_grid(["type", "pairs", *table], [
            [part.removeprefix("type "), str(table[IMPLICIT][part]["pairs"]),
             *(_cell(row[part], short=True) for row in table.values())] for part in kinds
        ])]  # fmt: skip
    return "\n".join(lines) + "\n"


def _grid(titles: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (titles, ["--"] * len(titles), *rows)]


def _cell(one: dict[str, Any] | None, *, short: bool = False) -> str:
    if one is None:
        return "-"
    return f"{one['accuracy']:.3f}" + ("" if short else f" ({one['low']:.3f} to {one['high']:.3f}), {one['pairs']}")


def _read_config(run: Path) -> RunConfig:
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run} holds no run: {run / 'config.yaml'}: no such file; allowed: a directory of sgpo run.")
    return with_files(validate(RunConfig, read_yaml(run / "config.yaml"), str(run / "config.yaml")), run)


def _gaps(
    config: RunConfig, run: Path, policy: Path, rows: Dataset, name: str, options: HeadsOptions
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(N,) chosen less rejected reward of each annotator; nan where it has none."""
    sft = load_model(config.model)
    base = _score(config, sft, rows, name)
    heads, about = _head_gaps(sft, load_pairs(run / "seed" / "pairs"), rows, name, options, config.seed)
    del sft
    own = _score(config, load_model(config.model.at(policy)), rows, name)
    longer = (own.chosen_tokens - own.rejected_tokens).astype(float)
    moved = PairScores(own.chosen - base.chosen, own.rejected - base.rejected, own.chosen_tokens, own.rejected_tokens)
    return {
        IMPLICIT: moved.chosen - moved.rejected,
        "implicit reward per token": _per_token(moved),
        "mean log-probability (SFT model)": _per_token(base),
        "mean log-probability (policy)": _per_token(own),
        LONGER: longer,
        SHORTER: -longer,
        **heads,
    }, about


def _score(config: RunConfig, policy: Policy, rows: Dataset, name: str) -> PairScores:
    with naming_rows(places(rows, name)):
        return score_pairs(policy, rows, max_length=config.leader.max_length)


def _per_token(scores: PairScores) -> np.ndarray:
    return scores.chosen / scores.chosen_tokens - scores.rejected / scores.rejected_tokens


def _head_gaps(
    policy: Policy, seeds: Dataset, rows: Dataset, name: str, options: HeadsOptions, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Gaps by the annotator `heads`, with its pooling and with the other, and by one head fitted on all seeds."""
    known = _states(policy, seeds)
    with naming_rows(places(rows, name)):
        asked = _states(policy, rows)
    kept = np.flatnonzero(np.isfinite(known).all(axis=(0, 2, 3)))
    prompts = [prompt_key(prompt) for prompt in seeds.select(kept)["prompt"]]
    gaps: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {"seeds": len(seeds), "left_out": len(seeds) - len(kept)}
    for pooling in POOLINGS:
        (chosen, rejected), states = (side[..., POOLINGS.index(pooling), :] for side in (known[:, kept], asked))
        heads, strength, accuracy = fit_heads(chosen, rejected, prompts, count=options.heads, seed=seed)
        about[pooling] = {"regularisation": strength, "cross_validated": accuracy._asdict()}
        one, other = map(heads.rewards, states)
        means, spread = (one.mean(axis=1) - other.mean(axis=1)), one.std(axis=1) - other.std(axis=1)
        gaps[f"heads ({pooling})"] = means
        gaps[f"heads ({pooling}) - {options.penalty:g} std"] = means - options.penalty * spread
        single = fit_weights((chosen - rejected) / heads.scale, strength, np.ones(len(kept)))
        gaps[f"single head ({pooling})"] = ((states[0] - states[1]) / heads.scale) @ single
    return gaps, {**about, "pooling": max(POOLINGS, key=lambda one: about[one]["cross_validated"]["accuracy"])}


def _states(policy: Policy, pairs: Dataset) -> np.ndarray:
    """(2, N, 2, d) states of the chosen and the rejected responses, by pooling."""
    texts = zip(response_texts(pairs, "chosen"), response_texts(pairs, "rejected"), strict=True)
    states, _ = embed_responses(policy, pairs["prompt"][:], list(texts))
    return states.astype(np.float64).reshape(len(pairs), 2, *states.shape[1:]).swapaxes(0, 1)


def _types(rows: Dataset, name: str) -> list[list[str]] | None:
    """The constraint types of each pair; None without such a column."""
    if TYPES not in rows.column_names:
        return None
    found = [[value] if isinstance(value, str) else value for value in rows[TYPES][:]]
    for row, value in enumerate(found):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise InputError(f"{name_row(name, row)}: {TYPES} is {value!r}; allowed: a list of texts.")
    return found


def _seen_types(config: RunConfig, seeds: str | None) -> set[str] | None:
    path = seeds or config.data.seeds
    types = _types(load_pairs(path, split=None if seeds else config.data.seeds_split), path)
    if types is None and seeds:
        raise InputError(f"--seeds: {seeds} has no column {TYPES!r}; allowed: pairs with one.")
    return None if types is None else {one for row in types for one in row}


def _parts(longer: np.ndarray, types: list[list[str]] | None, seen: set[str] | None) -> dict[str, np.ndarray]:
    """Which pairs belong to each part."""
    parts = {"all": np.ones(len(longer), bool), "chosen longer": longer > 0, "chosen shorter": longer < 0}
    if types is None:
        return parts
    if seen is not None:
        is_unseen = np.array([not seen.issuperset(row) for row in types])
        parts |= {"seen types": ~is_unseen, "unseen types": is_unseen}
    names = sorted({one for row in types for one in row})
    return parts | {f"type {name}": np.array([name in row for row in types]) for name in names}


def _accuracy(gaps: np.ndarray, prompts: Sequence[bytes], kept: np.ndarray) -> Accuracy | None:
    """Over the kept pairs that have a gap: Wilson's interval, or Student's over prompts where that is wider."""
    kept = np.flatnonzero(kept & np.isfinite(gaps))
    if not len(kept):
        return None
    found = ranking_accuracy(gaps[kept])
    over_prompts = mean_interval((np.sign(gaps[kept]) + 1) / 2, [prompts[row] for row in kept])
    low, high = np.nanmin([found.low, over_prompts.low]), np.nanmax([found.high, over_prompts.high])
    return Accuracy(found.accuracy, max(float(low), 0.0), min(float(high), 1.0), found.pairs)
