"""A split on disk: Parquet files, and split.json with their row counts and hashes; drawn, written and checked."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset

import sgpo
from sgpo.config import SplitConfig
from sgpo.errors import InputError, shorten
from sgpo.policy.embed import embed_prompts
from sgpo.policy.load import Policy
from sgpo.preferences.columns import read_columns
from sgpo.preferences.mix import mix_sources
from sgpo.preferences.source import load_rows
from sgpo.preferences.split import Split, split_pairs
from sgpo.store.files import partial_path, read_json, replacing
from sgpo.store.progress import Reporter


def draw_split(
    settings: SplitConfig,
    folder: Path,
    *,
    seed: int,
    load: Callable[[], Policy],
    reporter: Reporter,
    notes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Mixes the sources, splits the mixture and writes the parts, see `write_split`. `load` loads the policy in whose
    hidden states the farthest seeds are found; it is not called for random seeds."""
    mixture = mix_sources(settings, seed=seed)
    options = settings.model_dump(include={"seeds", "pools", "heldout", "selection"})
    states = partial_path(folder.absolute().with_name(f"{folder.name}-states"))
    try:
        if settings.selection == "farthest":
            policy, prompts = load(), mixture.pairs["prompt"][:]
            with reporter.bar("hidden states of the prompts", len(prompts)) as advance:
                embeddings = embed_prompts(policy, prompts, progress=advance, out=states)
            options |= {"embeddings": embeddings, "device": str(policy.device)}
        with reporter.bar("seeds", settings.seeds) as advance:
            split = split_pairs(mixture.pairs, seed=seed, progress=advance, **options)
    finally:
        states.unlink(missing_ok=True)
    return write_split(split, folder, notes={**mixture.describe(), **(notes or {})})


def hash_rows(dataset: Dataset) -> str:
    """SHA-256 of the rows of a dataset, in hexadecimal digits.

    The digest is of the rows as JSON, one line per row: keys sorted, no spaces, UTF-8. It identifies the content,
    whatever version of whatever library wrote the file.
    """
    digest = hashlib.sha256()
    for row in read_columns(dataset, dataset.column_names, None):
        line = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
        digest.update(line.encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()


def check_new_folder(folder: str | Path) -> None:
    """Raises InputError if a split cannot be written because something is there already."""
    place = Path(folder)
    found = "a file" if place.is_file() else "not empty" if place.is_dir() and any(place.iterdir()) else None
    if found:
        raise InputError(f"{place} is {found}; allowed: an empty folder, or a path that does not exist.")


def write_split(split: Split, folder: str | Path, *, notes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Writes seeds.parquet, pool-1.parquet, ..., heldout.parquet (unless it is empty), and split.json.

    The folder is complete or absent. The same split gives the same bytes.

    Args:
        split: the parts.
        folder: where to; it must not exist, or be empty.
        notes: plain values for split.json in addition to `split.notes`, such as `Mixture.describe()`.

    Returns: the content of split.json: `sgpo` (the version), the notes, and `files`: name to `rows` and `sha256`
        (`hash_rows`).

    Raises:
        InputError: there is something at `folder`.
    """
    check_new_folder(folder)
    pools = {f"pool-{number}.parquet": pool for number, pool in enumerate(split.pools, start=1)}
    parts = {"seeds.parquet": split.seeds, **pools}
    if len(split.heldout):
        parts["heldout.parquet"] = split.heldout
    with replacing(folder) as partial:
        partial.mkdir()
        files = {}
        for name, part in parts.items():
            part.to_parquet(partial / name)
            files[name] = {"rows": len(part), "sha256": hash_rows(part)}
        content = {"sgpo": sgpo.__version__, **split.notes, **(notes or {}), "files": files}
        (partial / "split.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return content


def check_split(folder: str | Path) -> dict[str, Any]:
    """Reads split.json and checks the files next to it against their hashes.

    Returns: the content of split.json.

    Raises:
        InputError: there is no split, or a file is missing or has other rows than those that were written.
    """
    place = Path(folder) / "split.json"
    content = read_json(place)
    try:
        recorded = {name: file["sha256"] for name, file in content["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{place} lacks the hashes of its files; allowed: a file that `sgpo split` wrote.") from error
    for name, sha256 in recorded.items():
        if not name or Path(name).name != name:
            raise InputError(f"{place} names the file {shorten(name)}; allowed: names of files next to it.")
        file = place.with_name(name)
        found = hash_rows(load_rows(file))
        if found != sha256:
            raise InputError(f"{file} has other rows than split.json says: SHA-256 {found}, not {sha256}.")
    return content
