"""Rewards from a pair ranker: a DeBERTa that compares two responses to a prompt."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoTokenizer,
    DebertaV2Config,
    DebertaV2Model,
    DebertaV2PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sgpo.config import validate
from sgpo.config.options import PairRankerOptions
from sgpo.errors import InputError
from sgpo.policy.load import choose_device, load_weights
from sgpo.policy.locate import check_exists, loading
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.encode import score_in_batches
from sgpo.preferences.annotators.ranking import Ranking, as_text
from sgpo.store.progress import Advance, in_shares

PREFIXES = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")
# Position of the prefix token in a segment: after the classification token.
_PREFIX_PLACE = 1


class PairRanker:
    """A pair ranker with the layout of llm-blender/PairRM-hf (arXiv:2306.02561, Section 3; docs/annotators.md), from a
    folder or Hub id: of each pair of responses half the difference of the logits in both orders, and the mean of a
    response's. A share `max_failed` of the outputs may not be finite."""

    def __init__(self, path: str | Path, *, max_failed: float = 0.2, **options: Any) -> None:
        settings = validate(PairRankerOptions, options, "options")
        self._max_failed = max_failed
        self._source_max = settings.source_max_length
        self._total_max = settings.source_max_length + 2 * settings.candidate_max_length
        self._batch_tokens = settings.batch_tokens
        model, self._tokenizer = _load(path, settings.dtype)
        self._model = model.to(choose_device(settings.device)).eval()
        self._prefixes = [getattr(self._model.config, name) for name in PREFIXES]
        self._markers = [self._tokenizer.convert_ids_to_tokens(prefix) for prefix in self._prefixes]

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Ranks P lists of responses, see `Annotator`; the reward of a single response is nan. Counts: `comparisons`
        (unordered pairs), `cut_prompts`, `cut_responses`, and `not_finite` outputs."""
        counts = {"comparisons": 0, "cut_prompts": 0, "cut_responses": 0}
        pairs, lines, rows, start = [], [], [], 0
        for row, (messages, texts) in enumerate(zip(prompts, responses, strict=True)):
            source, candidates = self._segments(messages, texts, counts)
            for first, second in combinations(range(len(texts)), 2):
                pairs.append([start + first, start + second])
                lines.append([source, candidates[first], candidates[second]])
                lines.append([source, candidates[second], candidates[first]])
                rows += [row, row]
            start += len(texts)
        logits, not_finite = score_in_batches(
            "pair ranker",
            self._compare,
            lines,
            [sum(map(len, line)) for line in lines],
            rows,
            batch_tokens=self._batch_tokens,
            max_failed=self._max_failed,
            progress=in_shares(progress, len(prompts), len(lines)),
        )
        advantages: dict[int, list[float]] = defaultdict(list)
        for (first, second), (straight, swapped) in zip(pairs, logits.reshape(-1, 2), strict=True):
            if np.isfinite(straight - swapped):
                advantages[first].append((straight - swapped) / 2)
                advantages[second].append((swapped - straight) / 2)
        counts |= {"comparisons": len(pairs), "not_finite": not_finite}
        return Ranking(np.array([np.mean(advantages.get(place, np.nan)) for place in range(start)]), counts)

    def _segments(
        self, messages: Messages, texts: Sequence[str], counts: dict[str, int]
    ) -> tuple[list[int], list[list[int]]]:
        """Token ids of a prompt and of its responses, truncated; the truncated ones are counted."""
        marked = [self._markers[0] + as_text(messages), *(self._markers[1] + text for text in texts)]
        prompt, *answers = self._tokenizer(marked, verbose=False)["input_ids"]
        source = _cut(prompt, self._source_max)
        room = (self._total_max - len(source)) // 2
        counts["cut_prompts"] += len(prompt) > self._source_max
        counts["cut_responses"] += sum(len(ids) > room for ids in answers)
        return source, [_cut(ids, room) for ids in answers]

    def _compare(self, lines: list[list[list[int]]]) -> np.ndarray:
        """Logits that the first response of each line is better, (L,) float64."""
        rows, marks = [], []
        for source, first, second in lines:
            rows.append(torch.tensor([*source, *first, *second]))
            # By position: a response may contain a prefix as text.
            marks.append(torch.tensor([0, len(source), len(source) + len(first)]) + _PREFIX_PLACE)
            rows[-1][marks[-1]] = torch.tensor(self._prefixes)
        ids = pad_sequence(rows, batch_first=True, padding_value=self._model.config.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        inputs = [tensor.to(self._model.device) for tensor in (ids, mask, torch.stack(marks))]
        return self._model(*inputs).double().cpu().numpy()


class PairRankerModel(DebertaV2PreTrainedModel):
    """The network of a pair ranker; its parameters have the names of llm-blender/PairRM-hf. Its config also has
    `PREFIXES`, and optionally `n_tasks` (outputs of the head, averaged; 1) and `drop_out` (0)."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__(config)
        hidden, drop = config.hidden_size, getattr(config, "drop_out", 0.0)
        self.pretrained_model = DebertaV2Model(config)
        self.head_layer = nn.Sequential(
            nn.Dropout(drop),
            nn.Linear(2 * hidden, hidden),
            nn.Tanh(),
            nn.Dropout(drop),
            nn.Linear(hidden, getattr(config, "n_tasks", 1)),
        )
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, marks: Tensor) -> Tensor:
        """(B,) logits that the first response is better, from (B, L) token ids and attention mask, and `marks`, (B, 3),
        the positions of the three prefix tokens."""
        states = self.pretrained_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        at = states.gather(1, marks.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        source, first, second = at.unbind(dim=1)
        better = self.head_layer(torch.cat([source, first], dim=-1))
        return (better - self.head_layer(torch.cat([source, second], dim=-1))).mean(dim=-1)


def _cut(ids: list[int], length: int) -> list[int]:
    """The first tokens and the closing one."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def _load(path: str | Path, dtype: str) -> tuple[PairRankerModel, PreTrainedTokenizerBase]:
    check_exists(path, "pair ranker")
    name = str(path)
    with loading("pair ranker", name):
        config = DebertaV2Config.from_pretrained(name)
    missing = [key for key in PREFIXES if not isinstance(getattr(config, key, None), int)]
    if config.model_type != "deberta-v2" or missing:
        raise InputError(
            f"pair ranker {name!r}: config.json has model_type {config.model_type!r} and lacks "
            f"{', '.join(missing) or 'nothing'}; allowed: the layout of llm-blender/PairRM-hf, 'deberta-v2' with "
            f"{', '.join(PREFIXES)}."
        )
    with loading("pair ranker", name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    whole = "all of pretrained_model.* and head_layer.*, as in llm-blender/PairRM-hf"
    model = load_weights(PairRankerModel, name, "pair ranker", whole=whole, config=config, dtype=dtype)
    _check_tokenizer(tokenizer, config, name)
    return model, tokenizer


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: DebertaV2Config, name: str) -> None:
    added = {place: token for token, place in tokenizer.get_added_vocab().items()}
    for key in PREFIXES:
        prefix = getattr(config, key)
        token = added.get(prefix)
        ids = [] if token is None else tokenizer(f"{token}a")["input_ids"]
        if ids[:2] != [tokenizer.cls_token_id, prefix] or ids[-1] != tokenizer.sep_token_id:
            raise InputError(
                f"pair ranker {name!r}: {key} is {prefix}, to the tokenizer the added token {token!r}, and a text "
                f"after it becomes {ids}; allowed: an added token, encoded as [CLS], itself, the text, [SEP]."
            )
