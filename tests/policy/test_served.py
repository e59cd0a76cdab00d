import itertools
import json
import re
from contextlib import nullcontext

import pytest

from faulty_server import completion, faulty
from live_server import killable, serving
from policy.conversations import PROMPTS, ask
from policy.first_tokens import assert_first_tokens
from sgpo.config import GenerationConfig, ModelConfig
from sgpo.errors import InputError
from sgpo.policy.generators import open_generator
from sgpo.policy.load import load_policy
from sgpo.policy.sampling import Sampling, derive_seed, prompt_seeds
from sgpo.policy.served import ServedGenerator
from sgpo.policy.tokens import tokenize_prompts
from sgpo.serving.client import ServerPool
from tiny_model import build_tiny_model, generate_responses

GREEDY = Sampling(n=1, temperature=0, max_new_tokens=16)
SEEDS = prompt_seeds(0, len(PROMPTS))


@pytest.fixture(scope="module")
def ending_path(tmp_path_factory):
    """A policy whose checkpoint has many end tokens and its own sampling defaults."""
    path = build_tiny_model(tmp_path_factory.mktemp("served") / "tiny", seed=0)
    file = path / "generation_config.json"
    published = {"eos_token_id": list(range(2, 60)), "do_sample": False, "top_k": 1, "repetition_penalty": 5.0}
    published |= {"min_p": 0.9, "typical_p": 0.1, "no_repeat_ngram_size": 1, "min_new_tokens": 3}
    file.write_text(json.dumps({**json.loads(file.read_text()), **published}))
    return path


@pytest.fixture(scope="module")
def ending_policy(ending_path):
    return load_policy(ending_path, device="cpu")


@pytest.fixture(scope="module")
def url(ending_path):
    with serving(ending_path) as url:
        yield url


@pytest.fixture
def generator(url, ending_path, ending_policy):
    return ServedGenerator(ServerPool([url]), str(ending_path), ending_policy.tokenizer, dialect="transformers")


def test_a_real_server_generates_what_the_policy_generates(generator, ending_policy):
    """Same prompts after the chat template, same end tokens, same counts, no penalty of the checkpoint's defaults."""
    found = generator.generate(PROMPTS, SEEDS, Sampling(n=1, temperature=0, max_new_tokens=10))
    expected = generate_responses(ending_policy, PROMPTS, n=1, temperature=0, max_new_tokens=10, seed=0)
    for (its,), (own,) in zip(found, expected, strict=True):
        assert (its.n_tokens, its.finish_reason) == (own.n_tokens, own.finish_reason)
        # This policy's end tokens are letters, which a server leaves in the text.
        assert its.text[: len(own.text)] == own.text
        assert len(its.text) <= len(own.text) + (own.finish_reason == "stop")
    assert {one.finish_reason for (one,) in found} == {"stop", "length"}


def test_a_real_server_samples_and_gives_the_same_texts_again(generator):
    sampling = Sampling(n=3, temperature=1.0, max_new_tokens=8)
    first = generator.generate(PROMPTS, SEEDS, sampling)
    assert first == generator.generate(PROMPTS, SEEDS, sampling)
    assert len({response.text for row in first for response in row}) > 2 * len(PROMPTS)
    # However the prompts are divided: a restart repeats a shard, not the pool.
    assert generator.generate(PROMPTS[2:4], SEEDS[2:4], sampling) == first[2:4]


def test_a_real_server_samples_from_the_policy_at_its_temperature_and_nucleus(generator, ending_policy):
    """First tokens: none outside of the nucleus, and frequencies as in the policy."""
    sampling = Sampling(n=150, temperature=0.8, top_p=0.6, max_new_tokens=1)
    [found] = generator.generate(ask("Why?"), [3], sampling)
    assert_first_tokens([one.text for one in found], ending_policy, *ask("Why?"), 0.8, 0.6)


def test_a_stop_text_that_a_real_server_leaves_is_removed(generator):
    free = [response for (response,) in generator.generate(PROMPTS, SEEDS, GREEDY)]
    row, stop = next(
        (row, match[0]) for row, one in enumerate(free) if (match := re.search(r"[a-z]{2}(?=.{5})", one.text))
    )
    sampling = Sampling(n=1, temperature=0, max_new_tokens=16, stop=(stop, "never said"))
    (response,) = generator.generate(PROMPTS[row : row + 1], [0], sampling)[0]
    assert response.text == free[row].text[: free[row].text.index(stop)]
    assert response.finish_reason == "stop" and response.n_tokens < free[row].n_tokens


def test_a_real_server_refuses_the_fields_of_vllm(url, ending_path, ending_policy):
    generator = ServedGenerator(ServerPool([url]), str(ending_path), ending_policy.tokenizer)
    with pytest.raises(InputError, match=r"status 422.*Unexpected fields"):
        generator.generate(PROMPTS[:1], [0], GREEDY)


def test_a_real_server_refuses_another_model_by_name(url, ending_policy):
    generator = ServedGenerator(ServerPool([url]), "another", ending_policy.tokenizer, dialect="transformers")
    with pytest.raises(InputError, match=r"status 400.*pinned to"):
        generator.generate(PROMPTS[:1], [0], GREEDY)


def test_a_server_killed_during_a_run_costs_nothing_while_another_is_up_and_one_error_otherwise(
    url, ending_path, ending_policy
):
    prompts, sampling = ask(*map(str, range(12))), Sampling(n=2, temperature=1.0, max_new_tokens=8)
    seeds = prompt_seeds(1, len(prompts))

    def generate(pool, progress=None):
        generator = ServedGenerator(pool, str(ending_path), ending_policy.tokenizer, dialect="transformers")
        return generator.generate(prompts, seeds, sampling, progress=progress)

    expected = generate(ServerPool([url]))
    done = itertools.count(1)
    with killable(ending_path) as second:
        # The server that is killed comes first, so it has requests by then.
        found = generate(ServerPool([second.url, url], pause=0.1), lambda one: next(done) == 4 and second.kill())
        assert found == expected and next(done) == len(prompts) + 1
        answered = []
        with pytest.raises(InputError, match=r"no server answers \(http.*no connection"):
            generate(ServerPool([second.url], retries=1, pause=0.1), answered.append)
        assert answered == []


def test_answers_of_a_server_are_passed_on_before_it_is_killed(ending_path):
    bodies = [{"model": str(ending_path), "messages": prompt, "max_tokens": 4} for prompt in ask(*map(str, range(12)))]
    answered = {}
    with killable(ending_path) as server:

        def take(place, answer):
            answered[place] = answer
            if len(answered) == 5:
                server.kill()

        with pytest.raises(InputError, match=r"no server answers \(http.*no connection"):
            ServerPool([server.url], retries=2, pause=0.1, concurrency=1).map(bodies, on_answer=take)
    assert sorted(answered) == [0, 1, 2, 3, 4]
    assert all(answer.completion_tokens >= 1 for answer in answered.values())


def test_a_checkpoint_whose_defaults_cannot_be_overridden_is_refused(tmp_path, policy):
    path = build_tiny_model(tmp_path / "tiny")
    (path / "generation_config.json").write_text('{"suppress_tokens": [5], "top_k": 3}')
    with pytest.raises(InputError, match=r"generation_config.json: suppress_tokens would change"):
        ServedGenerator(ServerPool(["http://a/v1"]), str(path), policy.tokenizer, dialect="transformers")


def answering(*replies):
    return faulty(lambda number, body: replies[number % len(replies)])


def served(server, policy, **options):
    return ServedGenerator(ServerPool([server.url], pause=0.01, retries=1), "m", policy.tokenizer, **options)


def test_each_response_is_a_request_with_its_own_seed_and_the_sampling(policy):
    sampling = Sampling(n=3, temperature=0.7, top_p=0.9, max_new_tokens=5, stop=("x", "y"))
    with answering(completion()) as server:
        served(server, policy).generate(PROMPTS[:2], [5, 6], sampling)
    assert [body["messages"] for body in sorted(server.asked, key=str)].count(PROMPTS[0]) == 3
    assert {body["seed"] for body in server.asked} == {derive_seed(s, k) for s in (5, 6) for k in range(3)}
    for body in server.asked:
        assert body.items() >= {"model": "m", "temperature": 0.7, "top_p": 0.9, "max_tokens": 5}.items()
        assert body["stop"] == ["x", "y"]
        # vLLM would take these from the checkpoint's generation config.
        assert body.items() >= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}.items()
        assert "n" not in body


def test_llama_cpp_applies_temperature_and_nucleus_alone(policy):
    """Its defaults would add top-k, min-p and others, each of which is a sampler with a name."""
    with answering(completion()) as server:
        served(server, policy, dialect="llama.cpp").generate(PROMPTS[:1], [5], Sampling(n=1, max_new_tokens=3))
    fields = {"samplers": ["temperature", "top_p"], "reasoning_format": "none", "max_tokens": 3}
    assert server.asked[0].items() >= fields.items()


def test_a_server_of_openai_gets_only_fields_that_it_knows(policy):
    with answering(completion()) as server:
        served(server, policy, dialect="openai").generate(PROMPTS[:1], [5], GREEDY)
    known = {"model", "messages", "temperature", "top_p", "seed", "max_completion_tokens"}
    assert set(server.asked[0]) == known


def test_tokens_are_counted_by_the_server_or_else_by_the_tokenizer(policy):
    text = "The old bridge."
    own = len(policy.tokenizer(text, add_special_tokens=False)["input_ids"])
    with answering(completion(text, usage={"completion_tokens": 77})) as server:
        assert served(server, policy).generate(PROMPTS[:1], [0], GREEDY)[0][0].n_tokens == 77
    with answering(completion(text)) as server:
        assert served(server, policy).generate(PROMPTS[:1], [0], GREEDY)[0][0].n_tokens == own + 1
    with answering(completion(text, reason="length")) as server:
        assert served(server, policy).generate(PROMPTS[:1], [0], GREEDY)[0][0].n_tokens == own


def test_special_tokens_that_a_server_leaves_are_removed(policy):
    with answering(completion("Yes.<|im_end|>")) as server:
        assert served(server, policy).generate(PROMPTS[:1], [0], GREEDY)[0][0].text == "Yes."


def test_a_server_that_renders_other_prompts_is_refused_at_its_first_answer(policy):
    """For example with a second beginning-of-sequence token, or the template of another model."""
    length = len(tokenize_prompts(policy.tokenizer, PROMPTS[:1])[0])
    with answering(completion(usage={"prompt_tokens": length})) as server:
        served(server, policy).generate(PROMPTS[:1], [0], GREEDY)
    message = rf"row \d+: the server counts {length + 1} tokens .* {length};"
    with answering(completion(usage={"prompt_tokens": length + 1})) as server, pytest.raises(InputError, match=message):
        served(server, policy).generate(PROMPTS[:1] * 500, [0] * 500, GREEDY)
    assert len(server.asked) < 100


def test_a_response_that_ended_for_another_reason_is_missing_and_the_others_are_there(policy):
    odd = {"content_filter": "filtered", "tool_calls": "other_finish", "eos": "other_finish"}
    for reason, failure in odd.items():

        def answer(number, body, reason=reason):
            return completion(reason=reason if body["seed"] == derive_seed(5, 0) else "stop")

        with faulty(answer) as server:
            found = served(server, policy).generate(PROMPTS[:1] * 10, list(range(10)), GREEDY)
        assert [row[0].finish_reason for row in found] == ["stop"] * 5 + [failure] + ["stop"] * 4
        with answering(completion(reason=reason)) as server, pytest.raises(InputError, match=f"failed .{failure}"):
            served(server, policy).generate(PROMPTS[:1], [0], GREEDY)


@pytest.mark.parametrize(("max_failed", "stops"), [(0.2, True), (0.9, False), (1.0, False)])
def test_the_share_that_may_fail_is_that_of_the_section_generation(policy, max_failed, stops):
    def answer(number, body):
        return completion(reason="content_filter" if body["seed"] % 2 else "stop")

    with faulty(answer) as server:
        settings = GenerationConfig(backend="server", servers=[server.url], max_failed=max_failed)
        with (
            open_generator(settings, ModelConfig(path=policy.path)) as generator,
            pytest.raises(InputError, match=r"max_failed, 0\.2") if stops else nullcontext(),
        ):
            found = generator.generate(PROMPTS[:1] * 40, list(range(40)), GREEDY)
            assert 8 < sum(row[0].failed for row in found) < 32


def test_an_empty_response_is_a_response(policy):
    with answering(completion("", usage={"completion_tokens": 1})) as server:
        (response,) = served(server, policy).generate(PROMPTS[:1], [0], GREEDY)[0]
    assert (response.text, response.finish_reason, response.n_tokens) == ("", "stop", 1)


def test_progress_counts_prompts_that_have_all_their_responses(policy):
    done = []
    with answering(completion()) as server:
        served(server, policy).generate(PROMPTS, SEEDS, Sampling(n=3), progress=done.append)
    assert done == [1] * len(PROMPTS)


def test_seeds_and_dialects_are_checked(policy):
    pool = ServerPool(["http://127.0.0.1:1/v1"])
    with pytest.raises(InputError, match=r"seeds has 1 numbers; allowed: one per prompt, 6"):
        ServedGenerator(pool, "m", policy.tokenizer).generate(PROMPTS, [0], GREEDY)
    with pytest.raises(InputError, match=r"dialect is 'tgi'; allowed: 'vllm', .*, 'llama\.cpp' or 'openai'"):
        ServedGenerator(pool, "m", policy.tokenizer, dialect="tgi")
