"""A real vLLM on the CPU, in a process of its own and as a server: both generate what the policy would."""

import json
from dataclasses import replace

import pytest

from live_server import free_port
from policy.conversations import PROMPTS, ask
from policy.first_tokens import assert_first_tokens
from processes import descendants, runs
from real_vllm import SERVER_COMMAND, vllm_options
from sgpo.config import ModelConfig
from sgpo.errors import InputError
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.load import load_policy
from sgpo.policy.sampling import Response, Sampling, prompt_seeds
from sgpo.policy.served import ServedGenerator
from sgpo.policy.tokens import tokenize_prompts
from sgpo.policy.vllm import VLLMGenerator
from sgpo.serving.client import ServerPool
from sgpo.serving.launch import fill_command, launched_server
from tiny_model import build_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
SEEDS = prompt_seeds(0, len(PROMPTS))
ENDS = range(2, 60)
# Each of them changes what is sampled, or where a response ends, if it is not overridden.
DEFAULTS = {
    "do_sample": False, "top_k": 1, "repetition_penalty": 5.0, "min_p": 0.9, "typical_p": 0.1,
    "no_repeat_ngram_size": 1, "min_new_tokens": 3, "max_new_tokens": 5, "temperature": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy whose checkpoint has many end tokens and its own sampling defaults."""
    path = build_tiny_model(tmp_path_factory.mktemp("vllm") / "tiny", seed=0, hidden=64)
    file = path / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **DEFAULTS, "eos_token_id": list(ENDS)}))
    return load_policy(path, device="cpu")


@pytest.fixture(scope="module")
def engine(policy):
    with VLLMGenerator(ModelConfig(path=policy.path), policy.tokenizer, vllm_options()) as generator:
        yield generator


@pytest.fixture(scope="module")
def server(policy):
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    command = fill_command(SERVER_COMMAND, policy=policy.path, host="127.0.0.1", port=port)
    with launched_server(command, url, timeout=300):
        yield url


@pytest.fixture(params=["engine", "server"])
def generator(request, policy):
    if request.param == "engine":
        return request.getfixturevalue("engine")
    return served(request.getfixturevalue("server"), policy, max_failed=1.0)


def served(url, policy, **options):
    return ServedGenerator(ServerPool([url], **options), policy.path, policy.tokenizer)


def shown(generator, rows):
    """A server leaves out the half of a character at which a response is cut."""
    if not isinstance(generator, ServedGenerator):
        return rows
    return [[replace(one, text=one.text.rstrip("\ufffd")) for one in row] for row in rows]


def assert_as_expected(generator, prompts, sampling, expected):
    found = generator.generate(prompts, range(len(prompts)), sampling)
    assert shown(generator, found) == shown(generator, expected)


def greedy(policy, prompts, **sampling):
    """What transformers generates, and how."""
    sampling = Sampling(n=1, temperature=0, **sampling)
    return sampling, TransformersGenerator(policy).generate(prompts, [0] * len(prompts), sampling)


def test_the_most_likely_responses_are_those_of_transformers(generator, policy):
    """Texts, finish reasons and token counts: neither prompts nor end tokens nor the checkpoint's defaults differ."""
    reasons = set()
    for tokens in (3, 24):
        sampling, expected = greedy(policy, PROMPTS, max_new_tokens=tokens)
        assert_as_expected(generator, PROMPTS, sampling, expected)
        reasons |= {one.finish_reason for (one,) in expected}
    assert reasons == {"stop", "length"}


def test_a_stop_text_ends_a_response_as_it_does_with_transformers(generator, policy):
    _, free = greedy(policy, PROMPTS, max_new_tokens=24)
    # In the middle of one response, at the end of another, and one that nobody says.
    longest, *_, shortest = sorted((one.text for (one,) in free), key=len, reverse=True)
    sampling, expected = greedy(
        policy, PROMPTS, max_new_tokens=24, stop=(longest[5:8], shortest[-2:], "no such text at all")
    )
    assert sum(one.text != other.text for (one,), (other,) in zip(expected, free, strict=True)) >= 2
    assert_as_expected(generator, PROMPTS, sampling, expected)


def test_a_response_is_cut_where_the_context_ends_and_there_is_none_without_room(generator, policy):
    """Prompts of all lengths about the context's."""
    prompts = ask(*("c" * count for count in range(230, 250)))
    rooms = [policy.context - len(ids) for ids in tokenize_prompts(policy.tokenizer, prompts)]
    assert rooms[0] > 5 and rooms[-1] < -5 and 0 in rooms
    for tokens in (8, policy.context):
        sampling, expected = greedy(policy, prompts, max_new_tokens=tokens)
        assert any(one.finish_reason == "length" and one.n_tokens < 8 for (one,) in expected)
        assert expected[-1] == [Response.missing("too_long")]
        assert_as_expected(generator, prompts, sampling, expected)


def test_a_limit_beyond_the_context_is_lowered_by_the_engine_and_refused_by_the_server(engine, server, policy):
    sampling, expected = greedy(policy, PROMPTS, max_new_tokens=3000)
    assert_as_expected(engine, PROMPTS, sampling, expected)
    with pytest.raises(InputError, match=r"too_long.*max_tokens=3000 cannot be greater than max_model_len=256"):
        served(server, policy).generate(PROMPTS, SEEDS, sampling)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
def test_samples_follow_the_policys_distribution(generator, policy, temperature, top_p):
    """Together the prompts have more tokens than vLLM reads at once."""
    sampling = Sampling(n=1000, temperature=temperature, top_p=top_p, max_new_tokens=1)
    [found] = generator.generate(ask("Why?"), [3], sampling)

    def text_of(token):
        response = Response("" if token in ENDS else policy.tokenizer.decode([token]), "stop", 1)
        return shown(generator, [[response]])[0][0].text

    assert_first_tokens([one.text for one in found], policy, *ask("Why?"), temperature, top_p, text_of=text_of)


def test_responses_follow_the_seed_of_their_prompt_however_prompts_are_divided(generator):
    sampling = Sampling(n=3, temperature=1.0, max_new_tokens=12)
    whole = generator.generate(PROMPTS, SEEDS, sampling)
    assert generator.generate(PROMPTS, SEEDS, sampling) == whole
    assert generator.generate(PROMPTS[2:4], SEEDS[2:4], sampling) == whole[2:4]
    assert generator.generate(PROMPTS[2:4], SEEDS[3:5], sampling) != whole[2:4]
    assert len({one.text for row in whole for one in row}) > 2 * len(PROMPTS)


def test_nothing_of_the_engine_runs_after_its_context(policy):
    with VLLMGenerator(ModelConfig(path=policy.path), policy.tokenizer, vllm_options()) as generator:
        started = descendants(generator._process._child.process.pid)
        # The engine is a process of its own.
        assert started and all(map(runs, started))
    assert not any(map(runs, started))
