"""The annotator that a recipe names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sgpo.config import AnnotationConfig, ModelConfig
from sgpo.errors import InputError

if TYPE_CHECKING:
    from sgpo.preferences.annotators.ranking import Annotator


@contextmanager
def open_annotator(settings: AnnotationConfig, model: ModelConfig) -> Iterator["Annotator"]:
    """Opens an annotator other than the implicit reward, which the scores already hold.

    Args:
        settings: the recipe's section `annotation`.
        model: the recipe's section `model`, for dtype and trust.

    Raises:
        InputError: it cannot be loaded or reached, or an option that it does not have.
    """
    try:
        yield _build(settings, model)
    except TypeError as error:
        raise InputError(f"annotation.options: {error}") from error


def _build(settings: AnnotationConfig, model: ModelConfig) -> "Annotator":
    raise NotImplementedError
