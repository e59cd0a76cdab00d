"""Generating responses in process, with transformers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from sgpo.errors import check_whole
from sgpo.policy.kv_cache import join_caches, keep_rows, open_cache, unread_last
from sgpo.policy.load import Policy, check_rows
from sgpo.policy.sampling import Response, Sampling, room_for, tokenize_requests
from sgpo.policy.tokens import Messages, decode_response, end_tokens
from sgpo.store.progress import Advance

# Cost of restarting a batch without its finished rows, in steps of the others: if they keep what they have read, and
# per token of their prefixes if they must read them again (on a CPU).
_STARTING, _READING = 4, 0.3


class TransformersGenerator:
    """Samples from a policy that is loaded in this process.

    The policy itself is sampled: a checkpoint's generation defaults (top-k, repetition penalty, ...) are ignored. A
    response is a function of the prompt, its seed, its number and the sampling, whatever else is in the batch, up to
    rounding. The global random state is not changed.

    Rows wait in order of length. A finished row still costs its share of every step of its batch; once that has cost as
    much as a restart, the others continue without it, together with rows that wait.

    Args:
        policy: the policy; it is not changed.
        batch_size: most responses generated at once, >= 1.

    Source: arXiv:2502.18099, Algorithm 1, self-annotation (temperature 0.7, at most 300 new tokens, two responses).
    """

    def __init__(self, policy: Policy, *, batch_size: int = 32) -> None:
        check_whole("batch_size", batch_size, 1)
        self._policy, self._batch_size = policy, batch_size

    def generate(
        self, prompts: Sequence[Messages], seeds: Sequence[int], sampling: Sampling, *, progress: Advance | None = None
    ) -> list[list[Response]]:
        """Samples n responses to each of P prompts; see `Generator`."""
        policy = self._policy
        prompt_ids = tokenize_requests(policy.tokenizer, prompts, seeds)
        check_rows(policy, prompt_ids)
        rooms = [room_for(ids, sampling, policy.context) for ids in prompt_ids]
        rows = [
            _Row(row, number, seed, ids, room)
            for row, (ids, seed, room) in enumerate(zip(prompt_ids, seeds, rooms, strict=True))
            for number in range(sampling.n if room > 0 else 0)
        ]
        waiting = sorted(rows, key=lambda one: -len(one.prompt))
        responses = [[None if room > 0 else Response.missing("too_long")] * sampling.n for room in rooms]
        if progress is not None and (left_out := sum(room <= 0 for room in rooms)):
            progress(left_out)
        with _without_defaults(policy):
            batch = _Batch([], None)
            while waiting or batch.rows:
                free = self._batch_size - len(batch.rows)
                new, waiting = waiting[:free], waiting[free:]
                self._add(batch, new)
                for one in self._continue(batch, sampling):
                    responses[one.row][one.number] = one.response
                    if progress is not None and None not in responses[one.row]:
                        progress(1)
        return responses

    def _add(self, batch: "_Batch", rows: list["_Row"]) -> None:
        """Adds rows to a batch; each distinct prompt is read once, for all of its responses."""
        cache = open_cache(self._policy.model) if rows else None
        if cache is not None:
            places: dict[tuple[int, ...], int] = {}
            repeats = [places.setdefault(tuple(one.prompt), len(places)) for one in rows]
            self._write(list(map(list, places)), cache, steps=1)
            unread_last(cache)
            keep_rows(cache, repeats, max(map(len, places)) - 1)
            if batch.rows:
                join_caches(batch.cache, cache)
            else:
                batch.cache = cache
        batch.rows = batch.rows + rows

    def _continue(self, batch: "_Batch", sampling: Sampling) -> list["_Row"]:
        """Generates until it pays to continue without the rows that have ended; removes and returns these."""
        policy, rows = self._policy, batch.rows
        if not rows:
            return []
        inputs = [one.prompt + one.written for one in rows]
        length = max(map(len, inputs))
        ends = self._ends()
        pick = []
        if sampling.temperature > 0:
            uniforms = draw_uniforms([(one.seed, one.number) for one in rows], sampling.max_new_tokens)
            written = torch.tensor([len(one.written) for one in rows], device=policy.device)
            pick = [Pick(sampling, torch.tensor(uniforms, device=policy.device).float(), written, length)]
        watch = _Watch(policy, batch, sampling, ends, length)
        new = self._write(inputs, batch.cache, steps=self._steps(rows), pick=pick, watch=[watch])
        for one, ids in zip(rows, new, strict=True):
            one.take(ids, set(ends), sampling, policy.tokenizer)
        return batch.drop_ended()

    def _write(
        self,
        inputs: list[list[int]],
        cache: DynamicCache | None,
        *,
        steps: int,
        pick: Sequence["Pick"] = (),
        watch: Sequence["_Watch"] = (),
    ) -> list[list[int]]:
        """The tokens after each input, at most `steps`; a cache afterwards holds what has been read."""
        policy = self._policy
        length, pad = max(map(len, inputs)), policy.tokenizer.pad_token_id
        output = policy.model.generate(
            input_ids=torch.tensor([[pad] * (length - len(ids)) + ids for ids in inputs], device=policy.device),
            attention_mask=torch.tensor(
                [[0] * (length - len(ids)) + [1] * len(ids) for ids in inputs], device=policy.device
            ),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=steps,
                eos_token_id=self._ends(),
                pad_token_id=pad,
                bos_token_id=policy.tokenizer.bos_token_id,
                use_cache=True,
            ),
            logits_processor=LogitsProcessorList(pick),
            stopping_criteria=StoppingCriteriaList(watch),
            **({} if cache is None else {"past_key_values": cache}),
        )
        return output[:, length:].tolist()

    def _ends(self) -> list[int]:
        return end_tokens(self._policy.tokenizer, self._policy.model.generation_config.eos_token_id)

    def _steps(self, rows: list["_Row"]) -> int:
        """What the longest response may still need; a row that has ended must not be led out of the context either."""
        steps, context = max(one.room - len(one.written) for one in rows), self._policy.context
        if context is None:
            return steps
        return min(steps, context - max(len(one.prompt) + len(one.written) for one in rows))


@dataclass
class _Row:
    """One response while it is generated."""

    row: int
    number: int
    seed: int
    prompt: list[int]
    room: int  # most tokens of the response
    written: list[int] = field(default_factory=list)
    response: Response | None = None  # once it has ended

    def take(self, ids: list[int], ends: set[int], sampling: Sampling, tokenizer: PreTrainedTokenizerBase) -> None:
        """Appends new tokens, up to the row's end token, stop text or limit."""
        for token in ids:
            self.written.append(token)
            closed, full = token in ends, len(self.written) == self.room
            if closed or full or sampling.stop:
                text = decode_response(tokenizer, self.written[:-1] if closed else self.written)
                stop = sampling.find_stop(text)
                if closed or full or stop is not None:
                    reason = "stop" if closed or stop is not None else "length"
                    self.response = Response(text[:stop], reason, len(self.written))
                    return


@dataclass
class _Batch:
    """Rows that are generated together, and the keys and values of all their tokens but the last."""

    rows: list[_Row]
    cache: DynamicCache | None  # None if nothing is kept

    def drop_ended(self) -> list[_Row]:
        """Removes the rows that have ended, and returns them."""
        ended = [one for one in self.rows if one.response is not None]
        keep = [place for place, one in enumerate(self.rows) if one.response is None]
        self.rows = [self.rows[place] for place in keep]
        if self.cache is not None and keep:
            keep_rows(self.cache, keep, max(len(one.prompt) + len(one.written) for one in self.rows) - 1)
        return ended


class _Watch(StoppingCriteria):
    """Ends rows at their own limit or a stop text, and the batch once its ended rows have cost a restart."""

    def __init__(self, policy: Policy, batch: _Batch, sampling: Sampling, ends: list[int], length: int) -> None:
        rows = batch.rows
        self._tokenizer, self._sampling, self._length = policy.tokenizer, sampling, length
        self._ends = torch.tensor(ends, device=policy.device)
        self._room = torch.tensor([one.room - len(one.written) for one in rows], device=policy.device)
        self._before = [one.written for one in rows]
        self._done = torch.zeros(len(rows), dtype=torch.bool, device=policy.device)
        self._kept, self._wasted = batch.cache is not None, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        new = input_ids.shape[1] - self._length
        self._done |= torch.isin(input_ids[:, -1], self._ends) | (new >= self._room)
        if self._sampling.stop:
            for row, done in enumerate(self._done.tolist()):
                if not done:
                    ids = self._before[row] + input_ids[row, self._length :].tolist()
                    self._done[row] = self._sampling.find_stop(decode_response(self._tokenizer, ids)) is not None
        ended = int(self._done.sum())
        self._wasted += ended
        restart = _STARTING if self._kept else _READING * input_ids.shape[1]
        if ended and self._wasted >= restart * (len(self._done) - ended):
            return torch.ones_like(self._done)
        return self._done


def draw_uniforms(seeds: Sequence[tuple[int, int]], length: int) -> np.ndarray:
    """(R, length) uniform numbers in [0, 1), one row for each (seed of the prompt, number of the response)."""
    return np.stack([np.random.default_rng(list(seed)).random(length) for seed in seeds])


class Pick(LogitsProcessor):
    """Picks the next token of each row by inverting the cumulative distribution at the row's own number.

    The pick is the argmax of what it returns, so `generate` runs with do_sample=False and draws nothing itself.
    `uniforms` are (R, T) numbers in [0, 1), for the row's t-th new token; `written` (R,) counts the tokens that each
    row has already generated; `prompt_length` is that of the padded input, which includes them.
    """

    def __init__(self, sampling: Sampling, uniforms: Tensor, written: Tensor, prompt_length: int) -> None:
        self._temperature, self._top_p = sampling.temperature, sampling.top_p
        self._uniforms, self._written, self._prompt_length = uniforms, written, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = self._written + (input_ids.shape[1] - self._prompt_length)
        drawn = self._uniforms.gather(1, place.clamp(max=self._uniforms.shape[1] - 1).unsqueeze(1))
        logits = scores.float() / self._temperature
        probabilities = torch.softmax(logits, dim=-1)
        if self._top_p < 1:
            probabilities = torch.softmax(logits.where(nucleus(probabilities, self._top_p), -torch.inf), dim=-1)
        cumulative = probabilities.cumsum(dim=-1)
        # Rounding may leave the last sum below 1, so the sum itself is the scale. A number just below 1 may be 1 in
        # float32; kept below the sum, it finds a token of positive probability.
        whole = cumulative[:, -1:]
        target = torch.minimum(drawn.to(cumulative.dtype) * whole, torch.nextafter(whole, torch.zeros_like(whole)))
        picked = torch.searchsorted(cumulative, target, right=True).clamp(max=probabilities.shape[1] - 1)
        return scores.scatter(1, picked, torch.inf)


def nucleus(probabilities: Tensor, top_p: float, most: int = 128) -> Tensor:
    """Which of the (R, V) tokens are a row's most likely ones up to a total of `top_p`.

    Tokens as likely as the last of these are kept, too: 16-bit logits tie often, and no order decides. To sort a whole
    vocabulary takes longer than a small model's step, so only the `most` likely tokens are ordered, or eight times as
    many in rows where they have less than `top_p`.

    Source: arXiv:1904.09751, section 3.1.
    """
    largest = probabilities.topk(min(most, probabilities.shape[1]), dim=-1).values
    total = largest.cumsum(dim=-1)
    last = largest.where(total - largest < top_p, torch.inf).amin(dim=-1, keepdim=True)
    # The most likely token is kept even where top_p is 0 in the probabilities' type.
    kept = probabilities >= last.minimum(largest[:, :1])
    short = total[:, -1] < top_p
    if most < probabilities.shape[1] and bool(short.any()):
        kept[short] = nucleus(probabilities[short], top_p, 8 * most)
    return kept


@contextmanager
def _without_defaults(policy: Policy) -> Iterator[None]:
    """Inference without the checkpoint's generation defaults, except its end tokens; everything is restored on exit."""
    model = policy.model
    defaults = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=defaults.eos_token_id)
    try:
        with policy.inference():
            yield
    finally:
        model.generation_config = defaults
