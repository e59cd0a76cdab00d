"""A policy's answers to the prompts of an evaluation, from any backend."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sgpo.evaluate.mt_bench import Question, by_temperature, next_conversation
from sgpo.evaluate.prompt_files import Answers, is_answer_file, read_answers_to, write_answers_to
from sgpo.policy.sampling import Generator, Sampling, prompt_seeds
from sgpo.policy.tokens import Messages

Advance = Callable[[int], None]


class TurnAnswers(NamedTuple):
    """(Q,) a policy's answers to all turns of a question, and how many of them ended at the token limit."""

    turns: list[list[str]]
    cut: int


def answer_prompts(
    generator: Generator,
    prompts: Sequence[Messages],
    sampling: Sampling,
    *,
    seed: int,
    name: str,
    progress: Advance | None = None,
) -> Answers:
    """Generates one answer to each of P prompts; answers that end at the token limit are kept and counted."""
    rows = generator.generate(prompts, prompt_seeds(seed, len(prompts)), sampling, progress=progress)
    answers = [row[0] for row in rows]
    cut = sum(answer.finish_reason == "length" for answer in answers)
    return Answers([answer.text for answer in answers], name, cut, float(np.mean([one.n_tokens for one in answers])))


def answer_questions(
    generator: Generator,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    seed: int,
    progress: Advance | None = None,
) -> TurnAnswers:
    """Answers Q questions turn by turn, at the temperature of their category, with a seed for each turn."""
    turns: list[list[str]] = [[] for _ in questions]
    longest = max(len(question.turns) for question in questions)
    cut = 0
    for temperature, places in by_temperature(questions).items():
        sampling = Sampling(n=1, temperature=temperature, max_new_tokens=max_new_tokens)
        for turn in range(longest):
            asked = [place for place in places if len(questions[place].turns) > turn]
            if not asked:
                continue
            prompts = [next_conversation(questions[place], turns[place]) for place in asked]
            seeds = [prompt_seeds(seed, 1, first=place * longest + turn)[0] for place in asked]
            for place, row in zip(asked, generator.generate(prompts, seeds, sampling, progress=progress), strict=True):
                turns[place].append(row[0].text)
                cut += row[0].finish_reason == "length"
    return TurnAnswers(turns, cut)


def find_answers(
    path: str, prompts: Sequence[Messages], generate: Callable[[], Answers], *, keep: Path | None, **depends: Any
) -> Answers:
    """The answers in a file, or a policy's: kept ones if there are any, else newly generated ones.

    Args:
        path: a file of answers, or the folder or Hub id of a policy.
        prompts: P conversations.
        generate: generates the policy's answers.
        keep: folder in which a policy's answers are kept, under a name that depends on its files, the prompts and
            `depends`; None keeps nothing.
        depends: what else the answers depend on, such as temperature and seed; JSON values.

    Raises:
        InputError: see `read_answers_to` and `generate`.
    """
    if is_answer_file(path):
        return read_answers_to(path, prompts)
    kept = None if keep is None else keep / f"answers-{_key(path, prompts, depends)}.json"
    if kept is not None and kept.is_file():
        return read_answers_to(kept, prompts)
    answers = generate()
    if kept is not None:
        write_answers_to(kept, prompts, answers)
    return answers


def _key(path: str, prompts: Sequence[Messages], depends: dict[str, Any]) -> str:
    folder = Path(path)
    # Sizes and times tell a policy that was trained again from the one before, without reading gigabytes of weights.
    files = [
        [file.name, file.stat().st_size, file.stat().st_mtime_ns]
        for file in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if file.is_file()
    ]
    name = str(folder.resolve()) if folder.is_dir() else path
    content = json.dumps([name, files, [list(prompt) for prompt in prompts], depends], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
