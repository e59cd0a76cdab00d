"""Options of servers and models are described once, checked with the recipe, and go to the classes that take them."""

import inspect

import pytest

from refusals import unrefused
from sgpo.config import AnnotationConfig, EvaluateConfig, GenerationConfig, RunConfig, validate
from sgpo.config.options import ServerOptions
from sgpo.errors import InputError
from sgpo.serving.client import ServerPool

RECIPE = {"output": "runs/x", "model": {"path": "m"}, "data": {"seeds": "s.jsonl", "prompts": "p.jsonl"}}
JUDGE = {"model": "j", "servers": ["http://x/v1"]}
# Where a recipe takes options, by the class that they go to: `annotation`, and `evaluate` if it takes them too.
PLACES = {
    "judge": ({"annotator": "judge", **JUDGE}, {"kind": "judge", "prompts": "p", **JUDGE}),
    "reward": ({"annotator": "reward_model", "model": "r"}, {"kind": "reward", "prompts": "p", "model": "r"}),
    "pair": ({"annotator": "pair_ranker", "model": "r"}, None),
}


def check(who: str, section: str, options: dict) -> None:
    annotation, evaluation = PLACES[who]
    changes = {"annotation": {**annotation, "options": options}}
    if section == "evaluate":
        changes = {"evaluate": [{**evaluation, "options": options}]}
    validate(RunConfig, {**RECIPE, **changes}, "r.yaml")


def test_every_argument_of_a_pool_is_an_option_and_every_option_an_argument():
    parameters = inspect.signature(ServerPool).parameters.values()
    named = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    # `max_failed` is a key of each section that asks, because it counts more than requests.
    assert named - {"max_failed"} == set(ServerOptions.model_fields)
    assert all("max_failed" in kind.model_fields for kind in (GenerationConfig, AnnotationConfig, EvaluateConfig))


@pytest.mark.parametrize("section", ["annotation", "evaluate"])
def test_a_wrong_option_is_refused_with_the_recipe_and_named(section):
    where = "annotation: options: " if section == "annotation" else r"evaluate\.0: options: "
    cases = [
        (("judge", {"temprature": 1}), "unknown key temprature; allowed: max_tokens, temperature, seed, request,"),
        (("judge", {"max_tokens": "many"}), "max_tokens is 'many'; allowed: a whole number"),
        (("judge", {"timeout": -1}), "timeout is -1; allowed: a number > 0"),
        (("judge", {"retries": 1.5}), "retries is 1.5; allowed: a whole number"),
        (("reward", {"labels": 1}), "unknown key labels; allowed: batch_tokens, dtype, device, label, max_length,"),
        (("reward", {"batch_tokens": "8k"}), "batch_tokens is '8k'; allowed: a whole number"),
        (("reward", {"max_length": 1}), "max_length is 1; allowed: a whole number >= 2"),
        (("reward", {"dtype": "int8"}), "dtype is 'int8'; allowed: 'float32', 'bfloat16', 'float16' or 'auto'"),
    ]
    if section == "annotation":
        cases += [
            (("judge", {"max_chars": 0}), "max_chars is 0; allowed: a whole number >= 1"),
            (("judge", {"max_chars": "many"}), "max_chars is 'many'; allowed: a whole number"),
            (
                ("pair", {"max_length": 9}),
                "unknown key max_length; allowed: batch_tokens, dtype, device, source_max_length,",
            ),
            (("pair", {"candidate_max_length": 3}), "candidate_max_length is 3; allowed: a whole number >= 4"),
        ]
    cases = [(case, rf"r\.yaml: {where}{words}") for case, words in cases]
    assert unrefused(lambda case: check(case[0], section, case[1]), cases) == {}


@pytest.mark.parametrize("who", ["judge", "reward"])
def test_a_typo_lists_the_same_keys_in_annotation_and_in_evaluate(who):
    allowed = []
    for section in ("annotation", "evaluate"):
        with pytest.raises(InputError) as caught:
            check(who, section, {"typo": 1})
        allowed.append(str(caught.value).rstrip(".").partition("allowed: ")[2].split(", "))
    assert allowed[0] == allowed[1]


def test_wrong_options_of_a_backend_are_refused_with_the_recipe_and_named():
    cases = [
        (("server_options", {"concurency": 3}), "server_options.concurency; allowed: timeout, retries, concurrency,"),
        (("server_options", {"retries": 1.5}), "server_options.retries is 1.5; allowed: a whole number"),
        (("server_options", {"timeout": "soon"}), "server_options.timeout is 'soon'; allowed: a number"),
        (("server_options", {"retries": -1}), "server_options.retries is -1; allowed: a whole number >= 0"),
        (("server_options", {"concurrency": 0}), "server_options.concurrency is 0; allowed: a whole number >= 1"),
        (("server_options", {"timeout": 0}), "server_options.timeout is 0; allowed: a number > 0"),
        (("server_options", {"pause": float("nan")}), "server_options.pause is nan; allowed: a finite number > 0"),
        (("server_dialect", "tgi"), "generation.server_dialect is 'tgi'; allowed: 'vllm', 'transformers', 'llama.cpp'"),
        (("vllm", {"tensor_paralel_size": 2}), "vllm.tensor_paralel_size; allowed: python, dtype, tensor_parallel"),
        (("vllm", {"tensor_parallel_size": "two"}), "vllm.tensor_parallel_size is 'two'; allowed: a whole number"),
        (("vllm", {"gpu_memory_utilization": "all"}), "vllm.gpu_memory_utilization is 'all'; allowed: a number"),
        (("vllm", {"engine": {"model": "m"}}), "generation.vllm: engine has model; allowed: arguments that are set no"),
    ]

    def check(case):
        generation = {"backend": "vllm"} if case[0] == "vllm" else {"backend": "server", "servers": ["http://x/v1"]}
        validate(RunConfig, {**RECIPE, "generation": {**generation, case[0]: case[1]}}, "r.yaml")

    assert unrefused(check, cases) == {}


def test_a_key_of_a_server_is_refused_wherever_servers_have_options_and_is_not_repeated():
    options = {"api_key": "sk-secret"}
    annotation, evaluation = PLACES["judge"]
    for changes in (
        {"generation": {"backend": "server", "servers": ["http://x/v1"], "server_options": options}},
        {"generation": {"server_options": options}},
        {"annotation": {**annotation, "options": options}},
        {"evaluate": [{**evaluation, "options": options}]},
    ):
        with pytest.raises(InputError, match=r"api_key would be stored .* the environment's OPENAI_API_KEY") as caught:
            validate(RunConfig, {**RECIPE, **changes}, "r.yaml")
        assert "sk-secret" not in str(caught.value), changes
