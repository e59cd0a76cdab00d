"""The judge and the reward that an evaluation of a recipe names, and what can be checked of it before a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sgpo.config import EvaluateConfig, Recipe
from sgpo.errors import InputError
from sgpo.evaluate.alpaca import read_instructions
from sgpo.evaluate.judging import PairwiseJudge
from sgpo.evaluate.mt_bench import read_questions
from sgpo.evaluate.prompt_files import is_answer_file, read_answers_to, read_prompts
from sgpo.policy.locate import check_exists
from sgpo.preferences.annotators.ranking import Annotator
from sgpo.preferences.source import load_pairs
from sgpo.serving.cache import CachedPool
from sgpo.serving.client import ServerPool

# Options of a judge that are its connection's; the others are the judge's own.
_CONNECTION = ("timeout", "retries", "concurrency", "pause")


def check_evaluations(config: Recipe) -> None:
    """Reads what every evaluation of a recipe needs, so that what is wrong is known before the first round.

    Raises:
        InputError: the evaluation and what is wrong with its file, template, function or options.
    """
    for settings in config.evaluate:
        with naming(settings):
            _check(settings, config)


def open_judge(settings: EvaluateConfig, cache: Path) -> tuple[PairwiseJudge, CachedPool]:
    """A judge, and its servers behind a file of verdicts.

    Raises:
        InputError: its template or an option.
    """
    connection = {key: value for key, value in settings.options.items() if key in _CONNECTION}
    judging = {key: value for key, value in settings.options.items() if key not in _CONNECTION}
    with _checking_options("PairwiseJudge and ServerPool"):
        judge = PairwiseJudge(settings.model, template=settings.template, logprobs=settings.logprobs, **judging)
        pool = ServerPool(settings.servers, **connection)
    return judge, CachedPool(pool, cache)


def open_reward(settings: EvaluateConfig) -> Annotator:
    """A reward function or model.

    Raises:
        InputError: it cannot be loaded, or an option.
    """
    if settings.function:
        from sgpo.preferences.annotators.function import FunctionAnnotator

        return FunctionAnnotator(settings.function)
    from sgpo.preferences.annotators.reward_model import RewardModel

    with _checking_options("RewardModel"):
        return RewardModel(settings.model, **settings.options)


@contextmanager
def naming(settings: EvaluateConfig) -> Iterator[None]:
    """Puts the evaluation's name before the message of what goes wrong in it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"evaluate, {settings.title}: {error}") from error


def _check(settings: EvaluateConfig, config: Recipe) -> None:
    if settings.instructions:
        read_instructions(settings.instructions)
    if settings.questions:
        read_questions(settings.questions)
    if settings.pairs:
        load_pairs(settings.pairs)
    if settings.prompts:
        prompts = read_prompts(settings.prompts)
        if settings.baseline and is_answer_file(settings.baseline):
            read_answers_to(settings.baseline, prompts)
        elif settings.baseline:
            check_exists(settings.baseline, "baseline")
        elif config.model.adapter and config.generation.backend != "transformers":
            raise InputError(
                "baseline is null, the SFT model with an adapter, and generation.backend "
                f"{config.generation.backend!r} loads whole models; allowed: a file of answers, or a merged model."
            )
    if settings.kind == "judge":
        open_judge(settings, Path("unused"))
    if settings.function:
        open_reward(settings)
    elif settings.kind == "reward":
        check_exists(settings.model, "reward model")


@contextmanager
def _checking_options(what: str) -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        raise InputError(f"options: {error}; allowed: arguments of {what}.") from error
