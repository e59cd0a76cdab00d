import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from policy.conversations import PROMPTS, ask
from processes import runs, wait_until
from refusals import unrefused
from sgpo.config import ModelConfig, validate
from sgpo.config.options import VLLMOptions
from sgpo.errors import InputError
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.load import load_policy
from sgpo.policy.sampling import Response, Sampling, prompt_seeds
from sgpo.policy.tokens import tokenize_prompts
from sgpo.policy.vllm import VLLMGenerator
from tiny_model import build_tiny_model

STUB = Path(__file__).parent / "stub_vllm"
SEEDS = prompt_seeds(0, len(PROMPTS))


def in_vllm(policy, *, log=None, **options):
    return VLLMGenerator(ModelConfig(path=policy.path), policy.tokenizer, VLLMOptions(**options), log=log)


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(STUB), prepend=os.pathsep)


@pytest.fixture(scope="module")
def ending_policy(tmp_path_factory):
    """A policy whose checkpoint has many end tokens, so that many responses end."""
    path = build_tiny_model(tmp_path_factory.mktemp("vllm") / "tiny", seed=0)
    config = json.loads((path / "generation_config.json").read_text())
    (path / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": list(range(2, 60))}))
    return load_policy(path, device="cpu")


@pytest.fixture(scope="module")
def served(ending_policy, tmp_path_factory):
    """A generator over the stub, and its log."""
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(STUB), prepend=os.pathsep)
        patch.setenv("WORLD_SIZE", "4")
        generator = in_vllm(ending_policy, log=log).__enter__()
    yield generator, log
    generator.__exit__(None, None, None)


def logged(log, key):
    lines = log.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[key] for line in lines if line.startswith('{"' + key)]


def read_pids(file):
    wait_until(lambda: file.exists() and len(file.read_text().split()) == 2)
    return [int(pid) for pid in file.read_text().split()]


def test_the_most_likely_responses_are_those_of_transformers(served, ending_policy):
    """Texts, reasons and token counts, whatever is printed meanwhile: the prompt is the same, token by token."""
    sampling = Sampling(n=1, temperature=0, max_new_tokens=12)
    expected = TransformersGenerator(ending_policy).generate(PROMPTS, SEEDS, sampling)
    assert {row[0].finish_reason for row in expected} == {"stop", "length"}
    assert served[0].generate(PROMPTS, SEEDS, sampling) == expected


def test_a_stop_text_ends_a_response_as_it_does_with_transformers(served, ending_policy):
    free = Sampling(n=1, temperature=0, max_new_tokens=12)
    texts = [row[0].text for row in TransformersGenerator(ending_policy).generate(PROMPTS, SEEDS, free)]
    stop = max(texts, key=len)[2:4]
    sampling = Sampling(n=1, temperature=0, max_new_tokens=12, stop=(stop, "no such text"))
    expected = TransformersGenerator(ending_policy).generate(PROMPTS, SEEDS, sampling)
    assert any(
        row[0].text != text and row[0].finish_reason == "stop" for row, text in zip(expected, texts, strict=True)
    )
    assert served[0].generate(PROMPTS, SEEDS, sampling) == expected


def test_responses_follow_the_seed_of_their_prompt_and_nothing_else(served):
    generator, sampling = served[0], Sampling(n=2, temperature=1.0, max_new_tokens=8)
    whole = generator.generate(PROMPTS, SEEDS, sampling)
    assert generator.generate(PROMPTS[2:4], SEEDS[2:4], sampling) == whole[2:4]
    assert generator.generate(PROMPTS[2:4], SEEDS[3:5], sampling) != whole[2:4]
    assert all(first.text != second.text for first, second in whole)


def test_each_response_is_a_request_of_its_own_with_the_sampling_asked_for(served, ending_policy):
    generator, log = served
    before = len(logged(log, "params"))
    generator.generate(ask("a", "b"), [5, 6], Sampling(n=3, temperature=0.9, top_p=0.8, max_new_tokens=2, stop=("!",)))
    asked = logged(log, "params")[before:]
    assert len({params.pop("seed") for params in asked}) == 6
    end = ending_policy.tokenizer.eos_token_id
    expected = {"temperature": 0.9, "top_p": 0.8, "max_tokens": 2, "stop": ["!"], "stop_token_ids": [end]}
    assert asked == [{**expected, "detokenize": True}] * 6


def test_the_process_does_not_inherit_the_variables_of_accelerate_launch_and_reports_nothing(served):
    [environment] = logged(served[1], "environment")
    assert "WORLD_SIZE" not in environment
    assert environment["VLLM_NO_USAGE_STATS"] == "1"


def test_a_prompt_that_leaves_no_room_has_no_response_and_the_others_have(served):
    sampling = Sampling(n=2, temperature=0.7, max_new_tokens=200)
    first, second, third = served[0].generate(ask("a", "b" * 300, "c" * 150), [0, 1, 2], sampling)
    assert second == [Response("", "too_long", 0)] * 2
    assert not any(one.failed for one in [*first, *third]) and all(one.n_tokens <= 106 for one in third)


def test_progress_adds_up_to_the_prompts(served):
    done = []
    served[0].generate(ask("a", "b"), [0, 1], Sampling(max_new_tokens=1), progress=done.append)
    assert sum(done) == 2
    assert served[0].generate([], [], Sampling()) == []


def test_what_cannot_be_sampled_is_refused(served):
    with pytest.raises(InputError, match=r"temperature is 0\.001; allowed with vLLM: 0, or 0\.01 to 2"):
        served[0].generate(ask("a"), [0], Sampling(temperature=0.001))
    with pytest.raises(InputError, match="seeds has 1 numbers; allowed: one per prompt, 2"):
        served[0].generate(ask("a", "b"), [0], Sampling())


def test_max_model_len_bounds_prompt_and_response(stub, policy):
    room = 40 - len(tokenize_prompts(policy.tokenizer, ask("a"))[0])
    with in_vllm(policy, max_model_len=40) as generator:
        [[one]] = generator.generate(ask("a"), [0], Sampling(n=1, max_new_tokens=39))
    assert one.n_tokens <= room


def test_no_process_runs_after_the_context(stub, monkeypatch, policy, tmp_path):
    monkeypatch.setenv("STUB_PIDS", str(tmp_path / "pids"))
    generator = in_vllm(policy)
    with generator:
        pids = read_pids(tmp_path / "pids")
        assert all(map(runs, pids))
    assert not any(map(runs, pids))
    with pytest.raises(InputError, match="inside its context"):
        generator.generate(ask("a"), [0], Sampling())


def test_an_error_of_vllm_is_reported_with_its_output(stub, monkeypatch, policy, tmp_path):
    monkeypatch.setenv("STUB_FAIL", "1")
    with (
        in_vllm(policy) as generator,
        pytest.raises(InputError, match=r"(?s)RuntimeError: the engine is dead.*Processed prompts: 2"),
    ):
        generator.generate(ask("a"), [0], Sampling(max_new_tokens=8))


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_ends_the_call_at_once(stub, monkeypatch, policy, tmp_path, sign):
    monkeypatch.setenv("STUB_HANG", "1")
    monkeypatch.setenv("STUB_PIDS", str(tmp_path / "pids"))
    with in_vllm(policy) as generator:
        pids = read_pids(tmp_path / "pids")
        killer = threading.Timer(0.5, os.kill, (pids[0], sign))
        killer.start()
        with pytest.raises(InputError, match=f"ended with code -{int(sign)} before it answered"):
            generator.generate(ask("a"), [0], Sampling(max_new_tokens=8))
        assert runs(pids[1])
    assert not any(map(runs, pids))


def test_a_process_that_ends_while_it_loads_the_model_is_quoted(stub, monkeypatch, policy, tmp_path):
    monkeypatch.setenv("STUB_DIE", "1")
    monkeypatch.setenv("STUB_PIDS", str(tmp_path / "pids"))
    with (
        pytest.raises(InputError, match=r"(?s)ended with code 3 .*OutOfMemoryError: CUDA out of memory"),
        in_vllm(policy),
    ):
        pass
    assert not any(map(runs, read_pids(tmp_path / "pids")))


def test_all_processes_end_when_the_run_is_killed(stub, monkeypatch, policy_path, tmp_path):
    monkeypatch.setenv("STUB_HANG", "1")
    monkeypatch.setenv("STUB_PIDS", str(tmp_path / "pids"))
    code = f"""
        import sys
        from sgpo.policy.vllm import vllm_process
        with vllm_process(sys.executable, None, grace=1) as process:
            process.ask({{"model": {str(policy_path)!r}}})
            process.ask({{"prompts": [], "sampling": {{}}}})
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)]) as run:
        pids = read_pids(tmp_path / "pids")
        run.kill()
    wait_until(lambda: not any(map(runs, pids)))


def test_an_argument_that_vllm_does_not_have_is_reported_as_its_error(stub, policy):
    with (
        pytest.raises(InputError, match=r"TypeError.*unexpected keyword argument 'enforce_eagre'"),
        in_vllm(policy, engine={"enforce_eagre": True}),
    ):
        pass


def test_an_interpreter_without_vllm_is_named(policy):
    """A file beside the worker is called vllm too, and must not be imported."""
    with (
        pytest.raises(InputError, match=r"python.*No module named 'vllm'"),
        in_vllm(policy),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"'/no/such/python' cannot be started.*that has vLLM"),
        in_vllm(policy, python="/no/such/python"),
    ):
        pass


def test_options_out_of_range_are_refused():
    cases = [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0"),
        ({"tensor_parallel_size": "two"}, "tensor_parallel_size is 'two'; allowed: a whole number"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization is 1.5"),
        ({"max_model_len": 1}, "max_model_len is 1"),
        ({"engine": {"dtype": "auto", "model": "x"}}, "engine has dtype, model"),
    ]
    assert unrefused(lambda case: validate(VLLMOptions, case, "vllm"), cases) == {}


def test_an_adapter_is_refused(policy, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    with pytest.raises(InputError, match="is an adapter of 'some/base'; allowed with vLLM: the merged model"):
        VLLMGenerator(ModelConfig(path=str(tmp_path)), policy.tokenizer, VLLMOptions())
