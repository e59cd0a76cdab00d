"""Whose answers are compared: a file's, or a policy's, which are kept so that they are written once."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sgpo.evaluate.prompt_files import NamedAnswers, is_answer_file, read_answers_to, write_answers_to
from sgpo.evaluate.responding import Responses
from sgpo.policy.tokens import Messages


def answers_of(
    contestant: str,
    prompts: Sequence[Messages],
    generate: Callable[[str, Sequence[Messages]], Responses],
    *,
    settings: dict[str, Any],
    store: Path | None,
) -> NamedAnswers:
    """A contestant's answers to P prompts.

    Args:
        contestant: a file of answers, or the folder or Hub id of a policy.
        prompts: P conversations.
        generate: has a policy answer.
        settings: what its answers depend on beside policy and prompts, such as temperature and seed; JSON values.
        store: folder in which a policy's answers are kept under a name that its files, the prompts and the settings
            decide; None keeps nothing.

    Raises:
        InputError: see `read_answers_to`, and what `generate` raises.
    """
    if is_answer_file(contestant):
        return read_answers_to(contestant, prompts)
    kept = None if store is None else store / f"answers-{_key(contestant, prompts, settings)}.json"
    if kept is not None and kept.is_file():
        return read_answers_to(kept, prompts)
    answers = NamedAnswers(generate(contestant, prompts).texts, contestant)
    if kept is not None:
        write_answers_to(kept, prompts, answers)
    return answers


def _key(contestant: str, prompts: Sequence[Messages], settings: dict[str, Any]) -> str:
    folder = Path(contestant)
    # Size and time tell a policy that was trained again from its forerunner, without reading gigabytes of weights.
    files = [
        [file.name, file.stat().st_size, file.stat().st_mtime_ns]
        for file in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if file.is_file()
    ]
    name = str(folder.resolve()) if folder.is_dir() else contestant
    content = json.dumps([name, files, [list(prompt) for prompt in prompts], settings], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
