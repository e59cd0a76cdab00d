"""A policy's answers to the prompts of an evaluation, from any way of generating."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sgpo.evaluate.mt_bench import Question, by_temperature, next_conversation
from sgpo.policy.sampling import Generator, Sampling, prompt_seeds
from sgpo.policy.tokens import Messages

Advance = Callable[[int], None]


class Responses(NamedTuple):
    """(P,) texts, and how many of them were cut at the token limit."""

    texts: list[str]
    cut: int


class TurnResponses(NamedTuple):
    """(Q,) what was said at each turn of a question, and how many texts were cut at the token limit."""

    turns: list[list[str]]
    cut: int


def answer_prompts(
    generator: Generator, prompts: Sequence[Messages], sampling: Sampling, *, seed: int, progress: Advance | None = None
) -> Responses:
    """One answer to each of P prompts; a text that was cut is an answer, and counted.

    Args:
        generator: the policy, ready to answer.
        prompts: P conversations that end in a user turn.
        sampling: with n = 1.
        seed: of the sampling.
        progress: called with the number of prompts newly answered.

    Raises:
        InputError: what the generator raises.
    """
    written = generator.generate(prompts, prompt_seeds(seed, len(prompts)), sampling, progress=progress)
    first = [row[0] for row in written]
    return Responses([one.text for one in first], sum(one.finish_reason == "length" for one in first))


def answer_questions(
    generator: Generator,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    seed: int,
    progress: Advance | None = None,
) -> TurnResponses:
    """Answers MT-Bench's questions turn by turn, each at the temperature of its category.

    Args:
        generator: the policy, ready to answer.
        questions: Q questions.
        max_new_tokens: of one answer; FastChat's is 1024.
        seed: of the sampling; each turn of a question draws by its place.
        progress: called with the number of turns newly answered.

    Raises:
        InputError: what the generator raises.
    """
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
    return TurnResponses(turns, cut)
