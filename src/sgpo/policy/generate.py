"""Generating responses in process, with transformers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from sgpo.errors import InputError
from sgpo.policy.kv_cache import join_caches, keep_rows, open_cache
from sgpo.policy.load import Policy
from sgpo.policy.pick import Pick, draw_uniforms
from sgpo.policy.sampling import Response, Sampling, prompt_seeds
from sgpo.policy.tokens import Messages, tokenize_prompts

# What it costs to start a batch again without the rows that have ended, in steps of the others: where they keep what
# they have read, and per token of their prefixes where they must read it once more (on a CPU).
_STARTING, _READING = 4, 0.3


class TransformersGenerator:
    """Samples from a policy that is loaded in this process.

    Samples from the policy itself: generation defaults that come with a checkpoint (top-k, repetition penalty, ...)
    are set aside. A response is a function of the prompt, its seed, its number and the sampling, whatever else is in
    the batch, up to rounding; the random state outside is left alone.

    Rows wait in order of length. A row that has ended goes on costing its share of every step of its batch; once that
    has cost as much as a new start, the others leave it behind and go on together with rows that wait. They keep the
    keys and values of what they have read, unless the model keeps something else (a state-space layer), which makes
    them read it again.

    Args:
        policy: the policy; it is left as it is.
        batch_size: most responses written at once.

    Raises:
        InputError: batch_size < 1.

    Source: arXiv:2502.18099, Algorithm 1, self-annotation (temperature 0.7, at most 300 new tokens, two responses).
    """

    def __init__(self, policy: Policy, *, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; allowed: a whole number >= 1.")
        self._policy, self._batch_size = policy, batch_size

    def generate(
        self,
        prompts: Sequence[Messages],
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Response]]:
        """Samples n responses to each of P prompts; see `sgpo.policy.sampling.Generator`.

        Raises:
            InputError: a prompt and its response exceed the model's context (the row is named); not one seed each.
        """
        if len(seeds) != len(prompts):
            raise InputError(f"seeds has {len(seeds)} numbers; allowed: one per prompt, {len(prompts)}.")
        prompt_ids = tokenize_prompts(self._policy.tokenizer, prompts)
        for row, ids in enumerate(prompt_ids):
            _check_room(self._policy, row, len(ids), sampling.max_new_tokens)
        waiting = [
            _Row(row, number, seed, ids)
            for row, (ids, seed) in enumerate(zip(prompt_ids, seeds, strict=True))
            for number in range(sampling.n)
        ]
        waiting.sort(key=lambda one: -len(one.prompt))
        answers: list[list[Response | None]] = [[None] * sampling.n for _ in prompts]
        left = [sampling.n] * len(prompts)
        with _undisturbed(self._policy):
            batch = _Batch([], None)
            while waiting or batch.rows:
                free = self._batch_size - len(batch.rows)
                fresh, waiting = waiting[:free], waiting[free:]
                for one in self._take_up(batch, fresh, sampling) + self._write(batch, sampling):
                    answers[one.row][one.number] = self._respond(one, sampling)
                    left[one.row] -= 1
                    if progress is not None and not left[one.row]:
                        progress(1)
        return answers

    def _take_up(self, batch: "_Batch", fresh: list["_Row"], sampling: Sampling) -> list["_Row"]:
        """Adds rows to a batch, read as far as the batch's own; returns those that have ended at once."""
        cache = open_cache(self._policy.model) if fresh else None
        if cache is None:
            batch.rows += fresh
            return []
        new = _Batch(fresh, cache)
        ended = self._write(new, sampling, steps=1)
        batch.join(new)
        return ended

    def _write(self, batch: "_Batch", sampling: Sampling, *, steps: int | None = None) -> list["_Row"]:
        """Lets each row write on, until all have ended or until it pays to go on without those that have.

        Returns: the rows that have ended; they leave the batch.
        """
        policy, rows = self._policy, batch.rows
        if not rows:
            return []
        inputs = [one.prompt + one.written for one in rows]
        length, pad = max(map(len, inputs)), policy.tokenizer.pad_token_id
        input_ids = torch.tensor([[pad] * (length - len(ids)) + ids for ids in inputs], device=policy.device)
        mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in inputs], device=policy.device)
        ends = _end_tokens(policy)
        room = sampling.max_new_tokens - min(len(one.written) for one in rows)
        pick = []
        if sampling.temperature > 0:
            uniforms = draw_uniforms([(one.seed, one.number) for one in rows], sampling.max_new_tokens)
            written = torch.tensor([len(one.written) for one in rows], device=policy.device)
            pick = [Pick(sampling, torch.tensor(uniforms, device=policy.device).float(), written, length)]
        watch = _Watch(policy, batch, sampling, ends, length)
        output = policy.model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=steps or room,
                eos_token_id=ends,
                pad_token_id=pad,
                bos_token_id=policy.tokenizer.bos_token_id,
                use_cache=True,
            ),
            logits_processor=LogitsProcessorList(pick),
            stopping_criteria=StoppingCriteriaList([watch]),
            **({} if batch.cache is None else {"past_key_values": batch.cache}),
        )
        for one, ids in zip(rows, output[:, length:].tolist(), strict=True):
            one.take(ids, set(ends), sampling, policy)
        return batch.leave_behind(sampling)

    def _respond(self, one: "_Row", sampling: Sampling) -> Response:
        text = self._decode(one.written[:-1] if one.closed else one.written)
        if one.stopped_at is not None:
            text = text[: one.stopped_at]
        reason = "stop" if one.closed or one.stopped_at is not None else "length"
        return Response(text, reason, len(one.written))

    def _decode(self, ids: list[int]) -> str:
        return _decode(self._policy, ids)


@dataclass
class _Row:
    """One response while it is written."""

    row: int
    number: int
    seed: int
    prompt: list[int]
    written: list[int] = field(default_factory=list)
    closed: bool = False  # by an end token, the last of `written`
    stopped_at: int | None = None  # character at which a stop text begins

    def ended(self, sampling: Sampling) -> bool:
        return self.closed or self.stopped_at is not None or len(self.written) >= sampling.max_new_tokens

    def take(self, ids: list[int], ends: set[int], sampling: Sampling, policy: Policy) -> None:
        """Takes up new tokens as far as they are the row's: up to its end token, stop text or limit."""
        for token in ids[: sampling.max_new_tokens - len(self.written)]:
            self.written.append(token)
            if token in ends:
                self.closed = True
                return
            if sampling.stop:
                self.stopped_at = _first_stop(_decode(policy, self.written), sampling.stop)
                if self.stopped_at is not None:
                    return


@dataclass
class _Batch:
    """Rows that write together, and the keys and values of all their tokens but the last."""

    rows: list[_Row]
    cache: DynamicCache | None  # None where nothing is kept

    def join(self, other: "_Batch") -> None:
        """Takes up the rows of another batch."""
        if not self.rows:
            self.cache = other.cache
        elif other.rows:
            join_caches(self.cache, other.cache)
        self.rows = self.rows + other.rows

    def leave_behind(self, sampling: Sampling) -> list[_Row]:
        """Drops the rows that have ended, and returns them."""
        keep = [place for place, one in enumerate(self.rows) if not one.ended(sampling)]
        ended = [one for one in self.rows if one.ended(sampling)]
        self.rows = [self.rows[place] for place in keep]
        if self.cache is not None and keep:
            keep_rows(self.cache, keep, max(len(one.prompt) + len(one.written) for one in self.rows) - 1)
        return ended


class _Watch(StoppingCriteria):
    """Ends rows that reach their own limit or a stop text, and the batch once its ended rows have cost a new start."""

    def __init__(self, policy: Policy, batch: _Batch, sampling: Sampling, ends: list[int], length: int) -> None:
        rows = batch.rows
        self._policy, self._stop, self._length = policy, sampling.stop, length
        self._ends = torch.tensor(ends, device=policy.device)
        self._room = torch.tensor([sampling.max_new_tokens - len(one.written) for one in rows], device=policy.device)
        self._before = [one.written for one in rows]
        self._done = torch.zeros(len(rows), dtype=torch.bool, device=policy.device)
        self._kept, self._wasted = batch.cache is not None, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        new = input_ids.shape[1] - self._length
        self._done |= torch.isin(input_ids[:, -1], self._ends) | (new >= self._room)
        if self._stop:
            for row, done in enumerate(self._done.tolist()):
                if not done:
                    ids = self._before[row] + input_ids[row, self._length :].tolist()
                    self._done[row] = _first_stop(_decode(self._policy, ids), self._stop) is not None
        ended = int(self._done.sum())
        self._wasted += ended
        start = _STARTING if self._kept else _READING * input_ids.shape[1]
        if ended and self._wasted >= start * (len(self._done) - ended):
            return torch.ones_like(self._done)
        return self._done


def generate_responses(
    policy: Policy,
    prompts: Sequence[Messages],
    *,
    n: int = 2,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int = 300,
    seed: int,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> list[list[Response]]:
    """Samples n responses to each of P prompts in process, with one seed for all; see `TransformersGenerator`.

    Args:
        policy: the policy; it is left as it is.
        prompts: P conversations that end in a user turn.
        n, temperature, top_p, max_new_tokens: see `Sampling`.
        seed: seed of the samples, >= 0.
        batch_size: most responses written at once.
        progress: called with the number of prompts newly answered.

    Returns: P lists of n responses, in the order of the prompts.

    Raises:
        InputError: an argument is out of range, or a prompt and its response exceed the model's context.
    """
    sampling = Sampling(n, temperature, top_p, max_new_tokens)
    seeds = prompt_seeds(seed, len(prompts))
    return TransformersGenerator(policy, batch_size=batch_size).generate(prompts, seeds, sampling, progress=progress)


def _check_room(policy: Policy, row: int, length: int, max_new_tokens: int) -> None:
    if policy.context is not None and length + max_new_tokens > policy.context:
        raise InputError(
            f"row {row}: the prompt has {length} tokens, which with max_new_tokens {max_new_tokens} exceeds the "
            f"context of {policy.path!r}, {policy.context}; allowed: shorter prompts or a lower max_new_tokens."
        )


def _end_tokens(policy: Policy) -> list[int]:
    """Every token that ends a response: the tokenizer's and those that the checkpoint was published with."""
    ends = {policy.tokenizer.eos_token_id}
    # `_undisturbed` sets the checkpoint's own defaults aside and keeps these.
    published = policy.model.generation_config.eos_token_id
    ends.update(published if isinstance(published, list) else [published])
    return sorted(ends - {None})


@contextmanager
def _undisturbed(policy: Policy) -> Iterator[None]:
    """Evaluation mode without the checkpoint's generation defaults, but for its end tokens; all is put back after."""
    model = policy.model
    was_training, defaults = model.training, model.generation_config
    devices = [policy.device] if policy.device.type == "cuda" else []
    model.eval()
    model.generation_config = GenerationConfig(eos_token_id=defaults.eos_token_id)
    try:
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            yield
    finally:
        model.generation_config = defaults
        model.train(was_training)


def _decode(policy: Policy, ids: list[int]) -> str:
    return policy.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    places = [text.find(stop) for stop in stops]
    return min((place for place in places if place >= 0), default=None)
