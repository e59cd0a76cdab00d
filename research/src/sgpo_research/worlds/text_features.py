"""Fixed features of a text: length, layout, words, overlap with the prompt, hashed n-grams."""

import math
import re
import zlib
from itertools import pairwise

import numpy as np

BUCKETS = 32
NAMES = (
    "log_characters", "log_words", "word_length", "log_sentences", "log_lines", "bullets", "numbered", "digits",
    "capitals", "punctuation", "different_words", "questions", "exclamations", "code", "bold", "first_person",
    "refusal", "in_prompt", "prompt_covered", "finished",
)  # fmt: skip
_REFUSAL = re.compile(r"\b(sorry|unable|cannot|can't|as an ai)\b", re.IGNORECASE)
_FIRST_PERSON = re.compile(r"\b(i|i'm|my|me)\b", re.IGNORECASE)


def text_features(prompt: str, response: str) -> np.ndarray:
    """(20 + 32,) features of a response: those in `NAMES`, and signed counts of hashed words and word pairs.

    The hash is CRC-32, so that a text has the same features on every machine.
    """
    words, asked = _words(response), set(_words(prompt))
    count, size = max(len(words), 1), max(len(response), 1)
    own = set(words)
    plain = [
        math.log1p(len(response)),
        math.log1p(len(words)),
        sum(map(len, words)) / count,
        math.log1p(len(re.findall(r"[.!?]+(?:\s|$)", response))),
        math.log1p(response.count("\n")),
        math.log1p(len(re.findall(r"^\s*[-*•]\s", response, re.MULTILINE))),
        math.log1p(len(re.findall(r"^\s*\d+[.)]\s", response, re.MULTILINE))),
        sum(map(str.isdigit, response)) / size,
        sum(map(str.isupper, response)) / size,
        len(re.findall(r"[^\w\s]", response)) / size,
        len(own) / count,
        math.log1p(response.count("?")),
        math.log1p(response.count("!")),
        float("```" in response),
        float("**" in response),
        len(_FIRST_PERSON.findall(response)) / count,
        float(bool(_REFUSAL.search(response))),
        sum(word in asked for word in words) / count,
        len(own & asked) / max(len(asked), 1),
        float(response.rstrip()[-1:] in tuple(".!?)`\"'")),
    ]
    return np.array([*plain, *_hashed(words)])


def prompt_features(prompt: str) -> np.ndarray:
    """(1 + 32,) features of a prompt: its length, and hashed words and word pairs."""
    words = _words(prompt)
    return np.array([math.log1p(len(words)), *_hashed(words)])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _hashed(words: list[str]) -> np.ndarray:
    """Signed counts of words and of adjacent pairs in 32 buckets, divided by the square root of their number."""
    grams = [*words, *(f"{first} {second}" for first, second in pairwise(words))]
    found = np.zeros(BUCKETS)
    for gram in grams:
        code = zlib.crc32(gram.encode())
        found[code % BUCKETS] += 1.0 if code & 0x80000000 else -1.0
    return found / math.sqrt(max(len(grams), 1))
