"""The annotator that a recipe names."""

from pathlib import Path

from sgpo.config import AnnotationConfig
from sgpo.preferences.annotators.ranking import Annotator


def open_annotator(settings: AnnotationConfig, cache: Path | None = None) -> Annotator:
    """An annotator that needs no run: not the implicit reward, nor heads; `cache` keeps the answers of a judge."""
    options = settings.read_options
    if settings.annotator == "judge":
        from sgpo.preferences.annotators.judge import Judge
        from sgpo.serving.cache import CachedPool
        from sgpo.serving.client import ServerPool

        pool = ServerPool(settings.servers, **options.connection(), max_failed=settings.max_failed)
        if cache is not None:
            pool = CachedPool(pool, cache, retry_failed=settings.retry_failed)
        return Judge(pool, settings.model, options, template=settings.template)
    if settings.annotator == "pair_ranker":
        from sgpo.preferences.annotators.pair_ranker import PairRanker

        return PairRanker(settings.model, max_failed=settings.max_failed, **options.model_dump())
    return open_reward(settings.model, settings.function, settings.max_failed, **options.model_dump())


def open_reward(model: str | None, function: str | None, max_failed: float = 0.2, **options) -> Annotator:
    """A reward function, or else a reward model with further arguments of `RewardModel`."""
    if function is not None:
        from sgpo.preferences.annotators.function import FunctionAnnotator

        return FunctionAnnotator(function)
    from sgpo.preferences.annotators.reward_model import RewardModel

    return RewardModel(model, max_failed=max_failed, **options)
