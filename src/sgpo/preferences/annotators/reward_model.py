"""Rewards from a sequence-classification reward model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig

from sgpo.errors import InputError
from sgpo.policy.batches import batches_by_length
from sgpo.policy.load import DTYPES
from sgpo.policy.locate import cannot_load, check_exists
from sgpo.preferences.annotators.encode import Encoded, encode_responses
from sgpo.preferences.annotators.ranking import Advance, Messages, Ranking, check_finite


class RewardModel:
    """A model of transformers with a classification head: its score of a conversation is the reward.

    What it reads is said at `encode_responses`: a conversation where its tokenizer has a chat template, else prompt and
    response as two segments or two lines. Of what exceeds `max_length`, the beginning of the prompt is cut and counted;
    a response that leaves the prompt no room is not ranked.

    Args:
        path: folder or Hub id, weights in safetensors.
        label: which of the head's outputs is the reward; may be left out where there is one.
        max_length: tokens of prompt and response together, >= 2; None takes the lower limit of model and tokenizer.
        batch_tokens: most tokens of a batch, padding included; a longer input is a batch of its own.
        dtype: "float32", "bfloat16", "float16" or "auto".
        device: None takes CUDA where there is one.
        trust_remote_code: run code that comes with a Hub repository.

    Raises:
        InputError: it cannot be loaded, its head is not there or has several outputs and none is chosen, or an argument
            is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        label: int | None = None,
        max_length: int | None = None,
        batch_tokens: int = 8192,
        dtype: str = "float32",
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype is {dtype!r}; allowed: {', '.join(map(repr, DTYPES))}.")
        if batch_tokens < 1:
            raise InputError(f"batch_tokens is {batch_tokens}; allowed: a whole number >= 1.")
        check_exists(path, "reward model")
        name = str(path)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
            model, info = AutoModelForSequenceClassification.from_pretrained(
                name, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, output_loading_info=True
            )
        except Exception as error:
            raise cannot_load("reward model", name, error) from error
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise InputError(
                f"reward model {name!r} lacks {len(missing)} of its weights (first: {missing[0]}); allowed: a whole "
                "sequence-classification model."
            )
        self._config = model.config.get_text_config()
        self._max_length = _find_max_length(max_length, self._config, self._tokenizer.model_max_length, name)
        self._label = _check_label(label, model.config.num_labels, name)
        self._pad = self._config.pad_token_id
        self._batch_tokens = batch_tokens
        self._model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Scores every response; see `Annotator`.

        Counts: `cut_prompts`, inputs without the beginning of their prompt, and `too_long`, responses without a reward.

        Raises:
            InputError: the chat template refuses a prompt, or a score is not finite.
        """
        rows = [row for row, texts in enumerate(responses) for _ in texts]
        encoded = encode_responses(
            self._tokenizer,
            [prompts[row] for row in rows],
            [text for texts in responses for text in texts],
            self._max_length,
        )
        counts = {
            "cut_prompts": sum(one is not None and one.is_cut for one in encoded),
            "too_long": sum(one is None for one in encoded),
        }
        rewards = np.full(len(encoded), np.nan)
        ranked = [place for place, one in enumerate(encoded) if one is not None]
        share = len(prompts) / max(len(ranked), 1)
        self._choose_padding([encoded[place] for place in ranked])
        with torch.inference_mode():
            for batch in batches_by_length([len(encoded[place].ids) for place in ranked], self._batch_tokens):
                places = [ranked[one] for one in batch]
                rewards[places] = self._score([encoded[place] for place in places]).double().cpu().numpy()
                check_finite(rewards[places], [rows[place] for place in places], "reward model")
                if progress is not None:
                    progress(len(places) * share)
        return Ranking(rewards, counts)

    def _choose_padding(self, inputs: list[Encoded]) -> None:
        """Settles the pad token of a model that names none.

        A decoder reads its score at the last token that is not the pad token, or, without one, at the last. Padding
        with a token that ends no input lets it read a batch where it reads each input alone.
        """
        if self._pad is None:
            ends = {one.ids[-1] for one in inputs}
            free = (token for token in range(self._config.vocab_size) if token not in ends)
            self._config.pad_token_id = next(free)

    def _score(self, inputs: list[Encoded]) -> Tensor:
        """Scores of one batch, (B,), padded on the right."""
        length = max(len(one.ids) for one in inputs)
        fields = {
            "input_ids": [one.ids + [self._config.pad_token_id] * (length - len(one.ids)) for one in inputs],
            "attention_mask": [[1] * len(one.ids) + [0] * (length - len(one.ids)) for one in inputs],
        }
        if inputs[0].segments is not None:
            fields["token_type_ids"] = [one.segments + [0] * (length - len(one.ids)) for one in inputs]
        tensors = {name: torch.tensor(rows, device=self._model.device) for name, rows in fields.items()}
        return self._model(**tensors).logits[:, self._label]


def _check_label(label: int | None, count: int, name: str) -> int:
    if label is None and count != 1:
        raise InputError(f"reward model {name!r} has {count} outputs; allowed: one, or `label` to choose from them.")
    if label is not None and not 0 <= label < count:
        raise InputError(f"label is {label}; allowed: 0 to {count - 1}, the outputs of {name!r}.")
    return label or 0


def _find_max_length(asked: int | None, config: PreTrainedConfig, tokenizer_limit: int, name: str) -> int:
    limit = getattr(config, "max_position_embeddings", None)
    if asked is None:
        return min(tokenizer_limit, limit or tokenizer_limit)
    if asked < 2:
        raise InputError(f"max_length is {asked}; allowed: None or a whole number >= 2.")
    # Relative positions have no end.
    if limit is not None and asked > limit and not getattr(config, "relative_attention", False):
        raise InputError(f"max_length is {asked}; allowed: at most {limit}, the positions of {name!r}.")
    return asked
