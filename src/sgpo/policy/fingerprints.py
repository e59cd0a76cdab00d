"""Fingerprints, 16 hexadecimal digits of SHA-256, of what log-probabilities depend on."""

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError
from sgpo.policy.tokens import tokenize_pairs

Tokens = Sequence[int]

_POLICY_FILES = (
    "*.safetensors",
    "config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def fingerprint_policy(path: str | Path, *, adapter: str | Path | None = None) -> str:
    """Identifies a policy by the bytes of its weights, configuration and tokenizer.

    Args:
        path: folder of a model or adapter, or a Hub id in the local cache.
        adapter: folder or Hub id of an adapter that is merged into the model.

    Raises:
        InputError: no such folder, or a folder without safetensors.
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
                hashlib.file_digest(stream, lambda: digest)
    return _short(digest)


def _local_folder(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(snapshot_download(str(path), allow_patterns=list(_POLICY_FILES), local_files_only=True))
    except Exception as error:
        raise InputError(f"{path}: neither a folder nor a model in the Hub's local cache.") from error


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identifies a tokenizer by its vocabulary, merges and rules."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return _short(hashlib.sha256(content.encode()))


def fingerprint_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identifies a chat template by its text."""
    return _short(hashlib.sha256(str(tokenizer.chat_template).encode()))


def fingerprint_pairs(
    pairs: Dataset, tokenizer: PreTrainedTokenizerBase, policy: str, *, max_length: int | None
) -> list[str]:
    """Values for the column `ref_fingerprint` of pairs that a reference has just scored.

    Args:
        pairs: columns prompt, chosen, rejected as conversations.
        tokenizer: the tokenizer that the pairs were scored with.
        policy: `fingerprint_policy` of the reference.
        max_length: number of tokens to which prompt and response were truncated for scoring.

    Returns: one string per pair, "policy:tokens".
    """
    values = []
    for one, other in zip(*tokenize_pairs(tokenizer, pairs), strict=True):
        # TRL splits both responses at the earlier of their split points.
        split = min(len(one.prompt_ids), len(other.prompt_ids))
        ids, other_ids = one.prompt_ids + one.response_ids, other.prompt_ids + other.response_ids
        tokens = fingerprint_tokens(ids[:split], ids[split:], other_ids[split:], max_length)
        values.append(f"{policy}:{tokens}")
    return values


def fingerprint_tokens(
    prompt: Tokens, chosen: Tokens, rejected: Tokens, max_length: int | None, ld_alpha: float | None = None
) -> str:
    """Identifies the tokens of one pair, truncated to `max_length`, and the `ld_alpha` of their sums."""
    room = None if max_length is None else max(max_length - len(prompt), 0)
    digest = hashlib.sha256()
    for ids in (prompt, chosen[:room], rejected[:room]):
        digest.update(array("q", [len(ids), *ids]).tobytes())
    if ld_alpha is not None and ld_alpha != 1:
        digest.update(f"ld_alpha={ld_alpha}".encode())
    return _short(digest)


def _short(digest: "hashlib._Hash") -> str:
    return digest.hexdigest()[:16]
