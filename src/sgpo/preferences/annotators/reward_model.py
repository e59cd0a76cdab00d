"""Rewards from a sequence-classification reward model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig

from sgpo.config import validate
from sgpo.config.options import RewardOptions
from sgpo.errors import InputError
from sgpo.policy.load import choose_device, load_weights
from sgpo.policy.locate import check_exists, loading
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.encode import Encoded, encode_responses, score_in_batches
from sgpo.preferences.annotators.ranking import Ranking
from sgpo.store.progress import Advance, in_shares


class RewardModel:
    """A sequence-classification model of transformers: its score of a conversation is the reward.

    An input longer than `max_length` loses the beginning of its prompt, which is counted; a response that leaves no
    room for the prompt is not ranked. For tokenizers without a chat template see `encode_responses`.

    Args:
        path: folder or Hub id, weights in safetensors.
        max_failed: share of the responses of a call that may have no reward: too long, or an output that is not finite.
        options: fields of `RewardOptions`; the device "meta" checks the files and reads no weights.

    Raises:
        InputError: it cannot be loaded, has no trained head, or has several outputs and no `label` is given; or an
            argument is out of range.
    """

    def __init__(self, path: str | Path, *, max_failed: float = 0.2, **options: Any) -> None:
        settings = validate(RewardOptions, options, "options")
        self._max_failed = max_failed
        check_exists(path, "reward model")
        name, trust = str(path), {"trust_remote_code": settings.trust_remote_code}
        with loading("reward model", name):
            self._tokenizer = AutoTokenizer.from_pretrained(name, **trust)
        options = {"whole": "a complete sequence-classification model", "dtype": settings.dtype, **trust}
        options["device_map"] = "meta" if settings.device == "meta" else None
        model = load_weights(AutoModelForSequenceClassification, name, "reward model", **options)
        self._config = model.config.get_text_config()
        limit = self._tokenizer.model_max_length
        self._max_length = _find_max_length(settings.max_length, self._config, limit, name)
        self._label = _check_label(settings.label, model.config.num_labels, name)
        self._pad = self._config.pad_token_id
        self._batch_tokens = settings.batch_tokens
        self._model = model.to(choose_device(settings.device)).eval()

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Scores every response, see `Annotator`. Counts: `cut_prompts`, inputs with a truncated prompt; and responses
        without a reward, `too_long` and `not_finite`."""
        rows = [row for row, texts in enumerate(responses) for _ in texts]
        texts = [text for texts in responses for text in texts]
        encoded = encode_responses(self._tokenizer, [prompts[row] for row in rows], texts, self._max_length)
        ranked = [place for place, one in enumerate(encoded) if one is not None]
        inputs = [encoded[place] for place in ranked]
        too_long = len(encoded) - len(inputs)
        self._choose_padding(inputs)
        rewards = np.full(len(encoded), np.nan)
        rewards[ranked], not_finite = score_in_batches(
            "reward model",
            self._score,
            inputs,
            [len(one.ids) for one in inputs],
            [rows[place] for place in ranked],
            batch_tokens=self._batch_tokens,
            max_failed=self._max_failed,
            progress=in_shares(progress, len(prompts), len(inputs)),
            too_long=too_long,
        )
        counts = {"cut_prompts": sum(one.is_cut for one in inputs), "too_long": too_long}
        return Ranking(rewards, {**counts, "not_finite": not_finite})

    def _choose_padding(self, inputs: list[Encoded]) -> None:
        """Pads a model without a pad token by a token that ends no input: a decoder reads its score at the last token
        that is not the pad token, or, without one, at the last."""
        if self._pad is None:
            ends = {one.ids[-1] for one in inputs}
            free = (token for token in range(self._config.vocab_size) if token not in ends)
            self._config.pad_token_id = next(free)

    def _score(self, inputs: list[Encoded]) -> np.ndarray:
        """Scores of one batch, (B,) float64, padded on the right."""

        def pad(rows: list[list[int]], value: int = 0) -> torch.Tensor:
            rows = [torch.tensor(row) for row in rows]
            return pad_sequence(rows, batch_first=True, padding_value=value).to(self._model.device)

        fields = {
            "input_ids": pad([one.ids for one in inputs], self._config.pad_token_id),
            "attention_mask": pad([[1] * len(one.ids) for one in inputs]),
        }
        if inputs[0].segments is not None:
            fields["token_type_ids"] = pad([one.segments for one in inputs])
        return self._model(**fields).logits[:, self._label].double().cpu().numpy()


def _check_label(label: int | None, count: int, name: str) -> int:
    if label is None and count != 1:
        raise InputError(f"reward model {name!r} has {count} outputs; allowed: one, or `label` to choose one of them.")
    if label is not None and not 0 <= label < count:
        raise InputError(f"label is {label}; allowed: 0 to {count - 1}, the outputs of {name!r}.")
    return label or 0


def _find_max_length(asked: int | None, config: PreTrainedConfig, tokenizer_limit: int, name: str) -> int:
    limit = getattr(config, "max_position_embeddings", None)
    if asked is None:
        return min(tokenizer_limit, limit or tokenizer_limit)
    # Relative positions have no limit.
    if limit is not None and asked > limit and not getattr(config, "relative_attention", False):
        raise InputError(f"max_length is {asked}; allowed: at most {limit}, the positions of {name!r}.")
    return asked
