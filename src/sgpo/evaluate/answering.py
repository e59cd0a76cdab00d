"""A policy's answers to the prompts of an evaluation: which are kept from before, and which are generated."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sgpo.evaluate.prompt_files import Answers, read_answers_to
from sgpo.policy.sampling import Generator, Sampling
from sgpo.policy.tokens import Messages
from sgpo.store.progress import Advance


def kept_answers(kept: Path | None, prompts: Sequence[Messages], name: str) -> Answers:
    """The answers in a file, or P answers without text and finish reason if there is no file yet."""
    if kept is not None and kept.is_file():
        return read_answers_to(kept, prompts)
    return Answers([None] * len(prompts), name, [None] * len(prompts), [None] * len(prompts))


def answer_rows(
    generator: Generator,
    answers: Answers,
    rows: Sequence[int],
    prompts: Sequence[Messages],
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Advance,
) -> None:
    """Fills in the answers to some of P prompts; a failed response leaves no text, and its reason."""
    asked = [prompts[row] for row in rows], [seeds[row] for row in rows]
    for row, [response] in zip(rows, generator.generate(*asked, sampling, progress=progress), strict=True):
        answers.texts[row] = None if response.failed else response.text
        answers.n_tokens[row], answers.finish_reasons[row] = response.n_tokens, response.finish_reason


def answers_key(path: str, prompts: Sequence[Messages], conditions: dict[str, Any]) -> str:
    """A name for a policy's answers: it changes with the policy's files, the prompts and how they are sampled."""
    folder = Path(path)
    # Sizes and times tell a policy that was trained again from the one before, without reading gigabytes of weights.
    files = [
        [file.name, file.stat().st_size, file.stat().st_mtime_ns]
        for file in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if file.is_file()
    ]
    name = str(folder.resolve()) if folder.is_dir() else path
    content = json.dumps([name, files, [list(prompt) for prompt in prompts], conditions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
