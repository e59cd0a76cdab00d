"""Log-probabilities that a dataset stores: are they there, are they whole, and whose are they."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.policy.tokens import tokenize_responses

POLICY_COLUMNS = ("chosen_logps", "rejected_logps")
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
FINGERPRINT_COLUMN = "ref_fingerprint"
_POLICY_FILES = (
    "*.safetensors",
    "config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_CHUNK = 1 << 24


def has_columns(dataset: Dataset, columns: tuple[str, str], name: str) -> bool:
    """Whether a dataset holds a pair of score columns; one without the other is an error."""
    present = [column for column in columns if column in (dataset.column_names or ())]
    if len(present) == 1:
        missing = next(column for column in columns if column not in present)
        raise InputError(f"{name} has the column {present[0]!r} without {missing!r}; allowed: both or neither.")
    for column in present:
        values = np.asarray(dataset[column][:], dtype=np.float64)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(f"{name} row {row}: {column} is {values[row]}; allowed: a finite number (nats).")
    return bool(present)


def stored_gaps(dataset: Dataset, beta: float) -> np.ndarray:
    """Gaps from the stored scores of a dataset, (N,) float64 in nats."""
    chosen, rejected = (np.asarray(dataset[column][:], dtype=np.float64) for column in POLICY_COLUMNS)
    ref_chosen, ref_rejected = (np.asarray(dataset[column][:], dtype=np.float64) for column in REFERENCE_COLUMNS)
    return beta * ((chosen - ref_chosen) - (rejected - ref_rejected))


def fingerprint_policy(path: str | Path, *, adapter: str | Path | None = None) -> str:
    """Names a policy by the bytes of its weights, configuration and tokenizer: 16 hexadecimal digits of SHA-256.

    Args:
        path: directory of a model or adapter, or a Hub id that is in the local cache.
        adapter: directory or Hub id of an adapter that is merged into it.

    Raises:
        InputError: no such directory, or one without safetensors.
    """
    digest = hashlib.sha256()
    for place in (path, adapter) if adapter is not None else (path,):
        folder = _local_folder(place)
        files = sorted(file for pattern in _POLICY_FILES for file in folder.glob(pattern))
        if not any(file.suffix == ".safetensors" for file in files):
            raise InputError(f"{place}: no *.safetensors; allowed: a folder that holds a policy's weights.")
        for file in files:
            digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()[:16]


def _local_folder(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(snapshot_download(str(path), allow_patterns=list(_POLICY_FILES), local_files_only=True))
    except Exception as error:
        raise InputError(f"{path}: neither a folder nor a model in the Hub's local cache.") from error


def fingerprint_pairs(
    pairs: Dataset, tokenizer: PreTrainedTokenizerBase, policy: str, *, max_length: int | None
) -> list[str]:
    """Values for the column `ref_fingerprint` of pairs whose reference log-probabilities were just computed.

    Args:
        pairs: columns prompt, chosen, rejected as conversations.
        tokenizer: the one that the pairs were scored with.
        policy: the reference's `fingerprint_policy`.
        max_length: tokens of prompt and response at which scoring cut.

    Returns: one string per pair, "policy:tokens".
    """
    prompts = pairs["prompt"][:]
    sides = [[row[0]["content"] for row in pairs[side][:]] for side in ("chosen", "rejected")]
    chosen, rejected = (tokenize_responses(tokenizer, prompts, texts) for texts in sides)
    return [
        f"{policy}:{_fingerprint_tokens(*_split_as_trl(one, other), max_length, None)}"
        for one, other in zip(chosen, rejected, strict=True)
    ]


def _split_as_trl(chosen, rejected) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """TRL splits both responses at the earlier of their two split points."""
    split = min(len(chosen.prompt_ids), len(rejected.prompt_ids))
    chosen_ids, rejected_ids = (pair.prompt_ids + pair.response_ids for pair in (chosen, rejected))
    return chosen_ids[:split], chosen_ids[split:], rejected_ids[split:]


def _fingerprint_tokens(
    prompt: Sequence[int],
    chosen: Sequence[int],
    rejected: Sequence[int],
    max_length: int | None,
    ld_alpha: float | None,
) -> str:
    room = None if max_length is None else max(max_length - len(prompt), 0)
    digest = hashlib.sha256()
    for ids in (prompt, chosen[:room], rejected[:room]):
        digest.update(array("q", [len(ids), *ids]).tobytes())
    if ld_alpha is not None and ld_alpha != 1:
        digest.update(f"ld_alpha={ld_alpha}".encode())
    return digest.hexdigest()[:16]


def doubt_reference(dataset: Dataset, args: SGPOConfig) -> str | None:
    """Why the stored reference log-probabilities of a prepared dataset cannot be used; None if they can.

    They belong to these tokens and this reference when the column `ref_fingerprint` says so. Without the column they
    are believed, unless `reference_fingerprint` asks for proof, or `ld_alpha` makes them another sum.
    """
    if FINGERPRINT_COLUMN not in dataset.column_names:
        if args.reference_fingerprint is not None:
            return f"there is no column {FINGERPRINT_COLUMN!r} to compare with {args.reference_fingerprint!r}"
        if args.ld_alpha is not None and args.ld_alpha != 1:
            return f"nothing says that they were summed with ld_alpha={args.ld_alpha}"
        return None
    stored = dataset[FINGERPRINT_COLUMN][:]
    policy = args.reference_fingerprint or str(stored[0]).partition(":")[0]
    for row, (said, tokens) in enumerate(zip(stored, _row_tokens(dataset, args), strict=True)):
        said_policy, _, said_tokens = str(said).partition(":")
        if said_policy != policy:
            return f"row {row} was scored by the reference {said_policy!r}, not {policy!r}"
        if said_tokens != tokens:
            return f"row {row} was scored on other tokens (tokenizer, chat template, max_length or ld_alpha differ)"
    return None


def _row_tokens(dataset: Dataset, args: SGPOConfig) -> Iterable[str]:
    columns = dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    for row in columns:
        yield _fingerprint_tokens(
            row["prompt_ids"], row["chosen_ids"], row["rejected_ids"], args.max_length, args.ld_alpha
        )
