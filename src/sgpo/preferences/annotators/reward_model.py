"""Rewards from a sequence-classification reward model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from sgpo.errors import InputError
from sgpo.policy.locate import cannot_load, check_exists
from sgpo.preferences.annotators.ranking import Advance, Messages, Ranking, as_text


class RewardModel:
    """A model of transformers with a classification head: its score of a conversation is the reward.

    A tokenizer with a chat template renders prompt and response as a conversation; without one they are the two
    segments of a pair. What exceeds `max_length` is cut from the left, so that the response stays.

    Args:
        path: folder or Hub id, weights in safetensors.
        label: which of the head's outputs is the reward; may be left out where there is one.
        max_length: tokens of prompt and response together; None takes the tokenizer's limit.
        batch_tokens: most tokens of a batch, padding included.
        dtype: "float32", "bfloat16", "float16" or "auto".
        device: None takes CUDA where there is one.
        trust_remote_code: run code that comes with a Hub repository.

    Raises:
        InputError: it cannot be loaded, its head is not there or has several outputs and none is chosen.
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
        self._label = _check_label(label, model.config.num_labels, name)
        self._set_padding(model, name)
        self._model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        self._max_length = max_length or min(self._tokenizer.model_max_length, 1 << 20)
        self._batch_tokens = batch_tokens

    def _set_padding(self, model: torch.nn.Module, name: str) -> None:
        if self._tokenizer.pad_token_id is None:
            if self._tokenizer.eos_token_id is None:
                raise InputError(f"reward model {name!r}: the tokenizer has neither pad_token nor eos_token.")
            self._tokenizer.pad_token = self._tokenizer.eos_token
        # A decoder with a head reads its score at the last token that is not padding, and finds it by this id.
        model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id
        model.config.pad_token_id = self._tokenizer.pad_token_id
        self._tokenizer.padding_side = "right"
        self._tokenizer.truncation_side = "left"

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Scores every response; see `Annotator`."""
        encoded = [
            _encode(self._tokenizer, messages, text, self._max_length)
            for messages, row in zip(prompts, responses, strict=True)
            for text in row
        ]
        lengths = [len(one["input_ids"]) for one in encoded]
        order = sorted(range(len(encoded)), key=lambda place: -lengths[place])
        rewards = np.zeros(len(encoded))
        done = 0
        with torch.inference_mode():
            while done < len(order):
                size = max(1, self._batch_tokens // lengths[order[done]])
                rows = order[done : done + size]
                batch = self._tokenizer.pad([encoded[row] for row in rows], return_tensors="pt").to(self._model.device)
                rewards[rows] = self._model(**batch).logits[:, self._label].double().cpu().numpy()
                done += len(rows)
                if progress is not None:
                    progress(len(rows) * len(prompts) / len(encoded))
        return Ranking(rewards)


def _check_label(label: int | None, count: int, name: str) -> int:
    if label is None and count != 1:
        raise InputError(f"reward model {name!r} has {count} outputs; allowed: one, or `label` to choose from them.")
    if label is not None and not 0 <= label < count:
        raise InputError(f"label is {label}; allowed: 0 to {count - 1}, the outputs of {name!r}.")
    return label or 0


def _encode(tokenizer: PreTrainedTokenizerBase, messages: Messages, response: str, max_length: int) -> dict:
    if tokenizer.chat_template is not None:
        ids = tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": response}], tokenize=True, return_dict=True
        )["input_ids"][-max_length:]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}
    return dict(tokenizer(as_text(messages), response, truncation="only_first", max_length=max_length))
