"""Responses of a model to prompts of the world, sampled once for all data seeds; an interrupted job resumes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sgpo.errors import InputError
from sgpo.evaluate import ifeval
from sgpo.policy.sampling import Generator, Sampling, derive_seed
from sgpo.store.files import read_json, read_objects, reading_back, write_json, write_jsonl
from sgpo.store.progress import Reporter
from sgpo_research.worlds.prompts import Prompt

# Prompts per file: an interrupted job repeats one, or as many as fill a batch.
SHARD = 24


@dataclass(frozen=True)
class Sampled:
    """A prompt and its responses: texts, and why each ended ("stop" or "length")."""

    prompt: Prompt
    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]

    @cached_property
    def outcomes(self) -> list[tuple[str, tuple[bool, ...]]]:
        """The finished responses, and which of the prompt's constraints each follows, strictly."""
        ended = zip(self.texts, self.finish_reasons, strict=True)
        finished = [text for text, reason in ended if reason == "stop"]
        found = ifeval.score_responses([self.prompt.checkable] * len(finished), finished)
        return [(text, tuple(followed.strict)) for text, followed in zip(finished, found, strict=True)]


def sample_responses(
    folder: Path,
    part: str,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    model: str,
    open_generator: Callable[[], Generator],
    batch_size: int,
    reporter: Reporter,
) -> list[Sampled]:
    """Samples responses to all prompts that the folder does not hold yet.

    Args:
        folder: what is sampled, in files of `SHARD` prompts, and about.json: with what.
        part: name of the prompts in the folder.
        prompts: P prompts, P a multiple of `SHARD`.
        sampling: how to sample; the same for all that is in the folder.
        model: the model's fingerprint and dtype, likewise.
        open_generator: loads the model, if anything is missing.
        batch_size: of that generator, so that a file's responses do not leave it half empty.
        reporter: where progress is shown.

    Raises:
        InputError: the folder holds responses of another model or sampling, or to other prompts.
    """
    about = {"model": model, **asdict(sampling), "stop": list(sampling.stop)}
    _check_about(folder, about)
    shards = [prompts[start : start + SHARD] for start in range(0, len(prompts), SHARD)]
    paths = [folder / f"{part}-{number:05d}.jsonl" for number in range(len(shards))]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if missing:
        generator = open_generator()
        write_json(folder / "about.json", about)
        with reporter.stage(f"responses: {part}"), reporter.bar("prompts", len(missing) * SHARD) as advance:
            at_once = math.ceil(batch_size / (SHARD * sampling.n))
            for start in range(0, len(missing), at_once):
                numbers = missing[start : start + at_once]
                together = [one for number in numbers for one in shards[number]]
                messages = [[{"role": "user", "content": one.text}] for one in together]
                seeds = [derive_seed(one.key, 0) for one in together]
                found = generator.generate(messages, seeds, sampling, progress=advance)
                rows = [
                    one.row | {"responses": [each.text for each in responses],
                               "finish_reasons": [each.finish_reason for each in responses]}
                    for one, responses in zip(together, found, strict=True)
                ]  # fmt: skip
                for place, number in enumerate(numbers):
                    write_jsonl(paths[number], rows[place * SHARD : (place + 1) * SHARD])
    return [one for path, shard in zip(paths, shards, strict=True) for one in _read(path, shard)]


def _check_about(folder: Path, about: dict[str, Any]) -> None:
    path = folder / "about.json"
    if path.exists() and (found := read_json(path)) != about:
        raise InputError(f"{folder} holds responses made with {found}; allowed: {about}, or another --output.")


def _read(path: Path, prompts: Sequence[Prompt]) -> list[Sampled]:
    rows = [row for _, row in read_objects(path)]
    with reading_back(path):
        found = [Sampled(prompt, tuple(row["responses"]), tuple(row["finish_reasons"]))
                 for prompt, row in zip(prompts, rows, strict=True)]  # fmt: skip
        texts = [row["prompt"] for row in rows]
    if texts != [prompt.text for prompt in prompts]:
        raise InputError(
            f"{path} holds responses to other prompts; allowed: those of this version, or another --output."
        )
    return found
