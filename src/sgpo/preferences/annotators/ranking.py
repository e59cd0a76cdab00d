"""The interface of all annotators."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sgpo.errors import InputError
from sgpo.policy.tokens import Messages
from sgpo.store.progress import Advance


@dataclass(frozen=True)
class Ranking:
    """Rewards of R responses.

    Attributes:
        rewards: (R,) float64, prompt by prompt; higher is better within a prompt; nan if the annotator has none.
        counts: what happened during ranking, such as comparisons, ties, unparsed.
    """

    rewards: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)


class Annotator(Protocol):
    """Ranks the responses to each prompt."""

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Ranks P lists of responses.

        Args:
            prompts: P conversations that end in a user turn.
            responses: P lists of texts.
            progress: called with the number of prompts newly ranked, or a fraction of one.
        """
        ...


def as_text(messages: Messages) -> str:
    """A conversation as plain text for models without a chat template: a single turn as it is, several with roles."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def check_finite(values: np.ndarray, rows: Sequence[int], who: str) -> None:
    """Raises InputError if a model's output is nan or infinite.

    Args:
        values: (N,) outputs.
        rows: (N,) the prompt of each output.
        who: the model, in the message.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(
            f"{who}: the output for row {rows[bad[0]]} is {values[bad[0]]}; allowed: finite numbers. A dtype with more "
            "range (float32, bfloat16) may help."
        )
