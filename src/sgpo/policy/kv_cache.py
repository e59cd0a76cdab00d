"""Keys and values of a batch whose rows change: rows are removed, and rows of another batch are added.

Rows are padded on the left, so the tokens that a row has read are the last columns of its cache.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_JOINABLE = (DynamicLayer, DynamicSlidingWindowLayer)


def open_cache(model: PreTrainedModel) -> DynamicCache | None:
    """An empty cache whose rows can change; None for a model that keeps anything but keys and values.

    A layer with a sliding window also keeps what is outside of it; the attention mask excludes that.
    """
    config = model.config.get_text_config(decoder=True)
    if not model._supports_default_dynamic_cache() or getattr(config, "num_kv_shared_layers", 0):
        return None
    joinable = all(type(layer) in _JOINABLE for layer in DynamicCache(config=config).layers)
    return DynamicCache() if joinable else None


def unread_last(cache: DynamicCache) -> None:
    """Removes the last column, in place: the last token of each row is to be read again."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]


def keep_rows(cache: DynamicCache, rows: Sequence[int], columns: int) -> None:
    """Keeps these rows, which may repeat, and their last columns, in place."""
    for layer in cache.layers:
        index = torch.tensor(rows, device=layer.keys.device)
        first = layer.keys.shape[-2] - columns
        layer.keys = layer.keys[:, :, first:].index_select(0, index)
        layer.values = layer.values[:, :, first:].index_select(0, index)


def join_caches(cache: DynamicCache, other: DynamicCache) -> None:
    """Appends the rows of another cache to those of `cache`, in place; the shorter one is padded on the left."""
    for layer, others in zip(cache.layers, other.layers, strict=True):
        layer.keys = _stack(layer.keys, others.keys)
        layer.values = _stack(layer.values, others.values)


def _stack(upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    columns = max(upper.shape[-2], lower.shape[-2])
    return torch.cat([pad(part, (0, 0, columns - part.shape[-2], 0)) for part in (upper, lower)])
