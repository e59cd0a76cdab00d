import logging

import pytest
import torch

from policy.conversations import PROMPTS, ask
from policy.first_tokens import assert_first_tokens
from refusals import unrefused
from sgpo.errors import InputError
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.load import load_policy
from sgpo.policy.sampling import Response, Sampling, prompt_seeds
from sgpo.policy.tokens import tokenize_prompts
from tiny_model import build_tiny_model, generate_responses


@pytest.fixture
def ending_policy(policy_path):
    """A policy whose checkpoint has many end tokens, so that many responses end."""
    policy = load_policy(policy_path, device="cpu")
    policy.model.generation_config.eos_token_id = list(range(2, 60))
    return policy


def greedy_by_hand(policy, messages, max_new_tokens):
    ids = tokenize_prompts(policy.tokenizer, [messages])[0]
    new = []
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([ids + new])).logits[0, -1]
        new.append(int(logits.argmax()))
        if new[-1] == policy.tokenizer.eos_token_id:
            break
    return policy.tokenizer.decode(new, skip_special_tokens=True), len(new)


def test_temperature_zero_takes_the_most_likely_tokens_whatever_the_batch(policy):
    found = generate_responses(policy, PROMPTS, n=1, temperature=0, max_new_tokens=12, seed=0, batch_size=4)
    expected = [greedy_by_hand(policy, messages, 12) for messages in PROMPTS]
    assert [(row[0].text, row[0].n_tokens) for row in found] == expected


def test_the_seed_decides_the_texts(policy):
    first, again, other = (
        generate_responses(policy, PROMPTS, n=3, max_new_tokens=8, seed=seed, batch_size=6) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_the_batches_of_one_call_draw_different_numbers(policy):
    found = generate_responses(policy, ask("a", "a", "a", "a"), n=2, max_new_tokens=8, seed=0, batch_size=2)
    assert len({response.text for row in found for response in row}) == 8


def test_a_prompt_is_read_once_for_all_of_its_responses(policy):
    """Every response, of eight tokens, reads the last token of the prompt and seven of its own."""
    read = []
    hook = policy.model.register_forward_pre_hook(
        lambda model, args, kwargs: read.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    [prompt] = tokenize_prompts(policy.tokenizer, PROMPTS[:1])
    responses = generate_responses(policy, PROMPTS[:1], n=6, max_new_tokens=8, seed=0, batch_size=6)
    hook.remove()
    assert {response.n_tokens for response in responses[0]} == {8}
    assert read == [(1, len(prompt))] + [(6, 1)] * 8


def test_a_response_does_not_depend_on_what_else_is_in_the_batch(ending_policy):
    """The same text for all batch sizes, for rows that change their batch, and for half of the prompts."""
    sampling, seeds = Sampling(n=3, max_new_tokens=8, temperature=1.0, top_p=0.95), prompt_seeds(7, len(PROMPTS))
    expected = TransformersGenerator(ending_policy, batch_size=1).generate(PROMPTS, seeds, sampling)
    assert {response.finish_reason for row in expected for response in row} == {"stop", "length"}
    for size in (2, 5, 64):
        assert TransformersGenerator(ending_policy, batch_size=size).generate(PROMPTS, seeds, sampling) == expected
    halves = [
        TransformersGenerator(ending_policy, batch_size=4).generate(
            PROMPTS[part], prompt_seeds(7, len(PROMPTS[part]), first=part.start), sampling
        )
        for part in (slice(0, 2), slice(2, None))
    ]
    assert halves[0] + halves[1] == expected


def test_responses_of_one_prompt_and_prompts_of_one_text_differ(policy):
    found = TransformersGenerator(policy).generate(ask("a", "a"), prompt_seeds(0, 2), Sampling(n=4, max_new_tokens=8))
    assert len({response.text for row in found for response in row}) == 8


def test_a_stop_text_ends_a_response_and_is_not_part_of_it(policy):
    free = generate_responses(policy, PROMPTS, n=1, temperature=0, max_new_tokens=20, seed=0)
    wanted = free[0][0].text[6:9]
    sampling = Sampling(n=1, temperature=0, max_new_tokens=20, stop=(wanted,))
    found = TransformersGenerator(policy, batch_size=3).generate(PROMPTS, prompt_seeds(0, len(PROMPTS)), sampling)
    for (before,), (after,) in zip(free, found, strict=True):
        place = before.text.find(wanted)
        if place < 0:
            assert after == before
        else:
            assert (after.text, after.finish_reason) == (before.text[:place], "stop")
            assert after.n_tokens <= before.n_tokens
    assert found[0][0].finish_reason == "stop"


def test_a_seed_for_each_prompt_is_required(policy):
    with pytest.raises(InputError, match="seeds has 1 numbers; allowed: one per prompt, 6"):
        TransformersGenerator(policy).generate(PROMPTS, [0], Sampling())


def test_generation_does_not_change_the_model_and_the_random_state(policy_path):
    policy = load_policy(policy_path, device="cpu")
    policy.model.train()
    policy.model.generation_config.top_k = 7
    before, defaults = torch.random.get_rng_state(), policy.model.generation_config.to_dict()
    generate_responses(policy, PROMPTS, max_new_tokens=4, seed=0)
    assert policy.model.training
    assert policy.model.generation_config.to_dict() == defaults
    assert torch.equal(torch.random.get_rng_state(), before)
    assert policy.tokenizer.padding_side == load_policy(policy_path, device="cpu").tokenizer.padding_side


@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 1.0), (1.5, 1.0), (1.0, 0.6)])
def test_samples_follow_the_tempered_next_token_distribution(policy_path, temperature, top_p):
    policy = load_policy(policy_path, device="cpu")
    # Defaults of a checkpoint must not change the distribution.
    policy.model.generation_config.top_k = 2
    policy.model.generation_config.repetition_penalty = 3.0
    [messages] = ask("Why?")
    n = 4000
    [found] = generate_responses(
        policy, [messages], n=n, temperature=temperature, top_p=top_p, max_new_tokens=1, seed=1, batch_size=n
    )
    assert_first_tokens([one.text for one in found], policy, messages, temperature, top_p)


def test_the_finish_reason_says_whether_the_policy_ended(ending_policy):
    found = [row for rows in generate_responses(ending_policy, PROMPTS, n=8, max_new_tokens=6, seed=0) for row in rows]
    assert {response.finish_reason for response in found} == {"stop", "length"}
    assert all(response.n_tokens == 6 for response in found if response.finish_reason == "length")
    assert any(response.n_tokens < 6 for response in found if response.finish_reason == "stop")


def test_a_finished_response_ends_at_its_first_closing_token(policy_path):
    policy = load_policy(policy_path, device="cpu")
    free = generate_responses(policy, PROMPTS, n=1, temperature=0, max_new_tokens=10, seed=0)
    [[reference], *_] = free
    ids = greedy_ids(policy, PROMPTS[0], 10)
    policy.model.generation_config.eos_token_id = [ids[3]]
    [[cut], *_] = generate_responses(policy, PROMPTS, n=1, temperature=0, max_new_tokens=10, seed=0)
    assert reference.finish_reason == "length"
    stop = ids.index(ids[3])
    assert (cut.finish_reason, cut.n_tokens) == ("stop", stop + 1)
    assert cut.text == policy.tokenizer.decode(ids[:stop], skip_special_tokens=True)


def greedy_ids(policy, messages, count):
    ids = tokenize_prompts(policy.tokenizer, [messages])[0]
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(policy.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-count:]


def test_text_holds_no_special_tokens(ending_policy):
    found = generate_responses(ending_policy, PROMPTS, n=16, temperature=3.0, max_new_tokens=12, seed=0)
    assert not any("<|" in response.text and "|>" in response.text for row in found for response in row)


def test_generation_logs_no_warning(policy):
    records = []

    class Collector(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    collector = Collector(logging.WARNING)
    logging.getLogger("transformers").addHandler(collector)
    try:
        generate_responses(policy, PROMPTS, max_new_tokens=3, seed=0)
        generate_responses(policy, PROMPTS, n=1, temperature=0, max_new_tokens=3, seed=0)
    finally:
        logging.getLogger("transformers").removeHandler(collector)
    assert records == []


def test_progress_adds_up_to_the_prompts(policy):
    done = []
    generate_responses(policy, PROMPTS, max_new_tokens=2, seed=0, batch_size=4, progress=done.append)
    assert sum(done) == len(PROMPTS)


def test_no_prompts_give_no_responses(policy):
    assert generate_responses(policy, [], seed=0) == []


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_response_is_cut_where_the_context_ends_and_a_prompt_without_room_has_none(tmp_path, temperature):
    """Whatever else is in the batch: position embeddings end with the context."""
    short = load_policy(build_tiny_model(tmp_path / "short", context=64), device="cpu")
    prompts = ask("a", "b" * 30, "c" * 60, "d" * 34)
    rooms = [64 - len(ids) for ids in tokenize_prompts(short.tokenizer, prompts)]
    assert rooms[0] > 20 > rooms[1] > rooms[3] > 0 > rooms[2]
    done = []
    settings = {"n": 1, "max_new_tokens": 20, "temperature": temperature, "seed": 0}
    found = generate_responses(short, prompts, **settings, progress=done.append)
    assert found[2] == [Response("", "too_long", 0)] and sum(done) == 4
    for (one,), room in zip(found, rooms, strict=True):
        assert one.failed or one.n_tokens == min(20, room) or (one.finish_reason == "stop" and one.n_tokens < room)
    alone = [generate_responses(short, [prompt], **settings)[0] for prompt in prompts]
    assert temperature or alone == found


def test_arguments_out_of_range_are_refused(policy):
    cases = [
        ({"n": 0}, "n is 0; allowed: a whole number >= 1"),
        ({"temperature": 0.0}, "n is 2 with temperature 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"stop": ("",)}, "stop is"),
        ({"seed": -1}, "seed is -1; allowed: a whole number >= 0"),
    ]
    assert unrefused(lambda case: generate_responses(policy, PROMPTS, **{"seed": 0, **case}), cases) == {}
