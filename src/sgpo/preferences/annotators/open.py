"""The annotator that a recipe names."""

from sgpo.config import AnnotationConfig, ModelConfig, validate
from sgpo.config.evaluation import ServerOptions
from sgpo.errors import InputError
from sgpo.preferences.annotators.ranking import Annotator


def open_annotator(settings: AnnotationConfig, model: ModelConfig) -> Annotator:
    """Any annotator but the implicit reward, which the scores already hold; `model` decides on code from the Hub."""
    options = settings.options
    try:
        if settings.annotator == "judge":
            return _open_judge(settings)
        if settings.annotator == "pair_ranker":
            from sgpo.preferences.annotators.pair_ranker import PairRanker

            return PairRanker(settings.model, **options)
        if settings.annotator == "reward_model":
            options = {"trust_remote_code": model.trust_remote_code, **options}
        return open_reward(settings.model, settings.function, **options)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise InputError(f"annotation.options: {error}; allowed: arguments of the annotator.") from error


def open_reward(model: str | None, function: str | None, **options) -> Annotator:
    """A reward function, or else a reward model with further arguments of `RewardModel`."""
    if function is not None:
        from sgpo.preferences.annotators.function import FunctionAnnotator

        return FunctionAnnotator(function, **options)
    from sgpo.preferences.annotators.reward_model import RewardModel

    return RewardModel(model, **options)


def _open_judge(settings: AnnotationConfig) -> Annotator:
    from sgpo.preferences.annotators.judge import Judge
    from sgpo.serving.client import ServerPool

    judging = dict(settings.options)
    asking = {name: judging.pop(name) for name in ServerOptions.model_fields if name in judging}
    pool = ServerPool(settings.servers, **validate(ServerOptions, asking, "annotation.options").connection())
    return Judge(pool, settings.model, template=settings.template, **judging)
