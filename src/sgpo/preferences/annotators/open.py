"""The annotator that a recipe names."""

from collections.abc import Iterator
from contextlib import contextmanager

from sgpo.config import AnnotationConfig, ModelConfig
from sgpo.errors import InputError
from sgpo.preferences.annotators.ranking import Annotator


@contextmanager
def open_annotator(settings: AnnotationConfig, model: ModelConfig) -> Iterator[Annotator]:
    """Opens an annotator other than the implicit reward, which the scores already hold.

    Args:
        settings: the recipe's section `annotation`.
        model: the recipe's section `model`, for the trust in code from the Hub.

    Raises:
        InputError: it cannot be loaded, or an option that it does not have.
    """
    try:
        annotator = _build(settings, model)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise InputError(f"annotation.options: {error}; allowed: arguments of the annotator.") from error
    yield annotator


def _build(settings: AnnotationConfig, model: ModelConfig) -> Annotator:
    options, trust = settings.options, {"trust_remote_code": model.trust_remote_code}
    if settings.annotator == "reward_model":
        from sgpo.preferences.annotators.reward_model import RewardModel

        return RewardModel(settings.model, **trust, **options)
    if settings.annotator == "pair_ranker":
        from sgpo.preferences.annotators.pair_ranker import PairRanker

        return PairRanker(settings.model, **options)
    if settings.annotator == "judge":
        from sgpo.preferences.annotators.judge import Judge
        from sgpo.serving.client import ServerPool

        # Of the options, those of the connection go to the pool, the rest to the judge.
        connection = {key: options[key] for key in ("timeout", "retries", "concurrency", "pause") if key in options}
        judging = {key: value for key, value in options.items() if key not in connection}
        return Judge(ServerPool(settings.servers, **connection), settings.model, template=settings.template, **judging)
    from sgpo.preferences.annotators.function import FunctionAnnotator

    return FunctionAnnotator(settings.function, **options)
