"""A writer in place of a language model, whose responses follow some constraints and not others."""

import numpy as np

from sgpo.policy.sampling import Response

_SENTENCES = (
    "The WATER is cold, and the sun is warm.", "Many people walk in the park", "It is a *good* day for you!",
    "He has 2 dogs but they sleep.", "Keep the bread in a BAG.",
)  # fmt: skip


class SketchyWriter:
    """Writes lines of one to six sentences, as a function of a prompt's seed; a fifth of them are cut."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.calls: list[int] = []

    def generate(self, prompts, seeds, sampling, *, progress=None):
        self.asked += [messages[-1]["content"] for messages in prompts]
        self.calls.append(len(prompts))
        return [[self._write(seed, number) for number in range(sampling.n)] for seed in seeds]

    def _write(self, seed: int, number: int) -> Response:
        rng = np.random.default_rng([seed, number])
        lines = [_SENTENCES[rng.integers(len(_SENTENCES))] for _ in range(rng.integers(1, 7))]
        lines = [f"* {line}" if rng.random() < 0.3 else line for line in lines]
        title = ["<<A title>>"] if rng.random() < 0.5 else []
        return Response("\n".join([*title, *lines]), "length" if rng.random() < 0.2 else "stop", 20)
