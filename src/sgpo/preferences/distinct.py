"""When two prompts count as one: if they differ in white space and case only."""

import hashlib
from collections.abc import Iterable

import numpy as np

from sgpo.preferences.layout import Message


def prompt_key(prompt: list[Message]) -> bytes:
    """16 bytes that prompts share if their roles and words agree, whatever their white space and case."""
    digest = hashlib.blake2b(digest_size=16)
    for message in prompt:
        words = " ".join(message["content"].split()).casefold()
        digest.update(f"{message['role']}\0{words}\0".encode())
    return digest.digest()


def distinct_rows(prompts: Iterable[list[Message]], seen: set[bytes] | None = None) -> np.ndarray:
    """Rows of the first occurrence of each prompt; keys in `seen` occurred earlier, and new ones are added to it."""
    seen = set() if seen is None else seen
    rows = []
    for row, prompt in enumerate(prompts):
        key = prompt_key(prompt)
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return np.array(rows, dtype=np.int64)
