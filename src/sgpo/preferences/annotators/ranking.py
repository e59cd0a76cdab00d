"""The interface of all annotators."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sgpo.policy.tokens import Messages
from sgpo.store.progress import Advance


@dataclass(frozen=True)
class Ranking:
    """Rewards of R responses.

    Attributes:
        rewards: (R,) float64, prompt by prompt; higher is better within a prompt; nan if the annotator has none.
        counts: what happened during ranking, such as comparisons, ties, unparsed.
        parts: what the rewards consist of, if the annotator says so: (R,) by name.
    """

    rewards: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)
    parts: dict[str, np.ndarray] = field(default_factory=dict)


class Annotator(Protocol):
    """Ranks P lists of responses, one for each of P conversations that end in a user turn."""

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """`progress` is called with the number of prompts newly ranked, or a fraction of one."""
        ...


def as_text(messages: Messages) -> str:
    """A conversation as plain text for models without a chat template: a single turn as it is, several with roles."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
