"""The annotator that a recipe names."""

from collections.abc import Iterator
from contextlib import contextmanager

from sgpo.config import AnnotationConfig, ModelConfig, validate
from sgpo.config.evaluation import ServerOptions
from sgpo.errors import InputError
from sgpo.preferences.annotators.ranking import Annotator


@contextmanager
def open_annotator(settings: AnnotationConfig, model: ModelConfig) -> Iterator[Annotator]:
    """Opens an annotator other than the implicit reward, which the scores already hold.

    Args:
        settings: section `annotation` of the recipe.
        model: section `model` of the recipe, for trust in code from the Hub.

    Raises:
        InputError: it cannot be loaded, or it does not have one of the options.
    """
    try:
        annotator = _build(settings, model)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise InputError(f"annotation.options: {error}; allowed: arguments of the annotator.") from error
    yield annotator


def open_reward(model: str | None, function: str | None, **options) -> Annotator:
    """A reward function, or else a reward model with further arguments of `RewardModel`.

    Raises:
        InputError: it cannot be loaded, or an option is out of range.
    """
    if function is not None:
        from sgpo.preferences.annotators.function import FunctionAnnotator

        return FunctionAnnotator(function, **options)
    from sgpo.preferences.annotators.reward_model import RewardModel

    return RewardModel(model, **options)


def _build(settings: AnnotationConfig, model: ModelConfig) -> Annotator:
    options = settings.options
    if settings.annotator == "judge":
        from sgpo.preferences.annotators.judge import Judge
        from sgpo.serving.client import ServerPool

        servers = {name: options[name] for name in ServerOptions.model_fields if name in options}
        connection = validate(ServerOptions, servers, "annotation.options").connection()
        judging = {name: value for name, value in options.items() if name not in servers}
        return Judge(ServerPool(settings.servers, **connection), settings.model, template=settings.template, **judging)
    if settings.annotator == "pair_ranker":
        from sgpo.preferences.annotators.pair_ranker import PairRanker

        return PairRanker(settings.model, **options)
    trust = {"trust_remote_code": model.trust_remote_code} if settings.annotator == "reward_model" else {}
    return open_reward(settings.model, settings.function, **{**trust, **options})
