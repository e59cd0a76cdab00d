"""The named choices of every setting, each in one place: recipes, `SGPOConfig`, command lines and checks read them."""

from typing import Any, Literal

from sgpo.errors import InputError

# The game.
Space = Literal["margin", "probability"]
LinkName = Literal["logistic", "neg_log", "hinge", "exponential"]
Knots = Literal["equispaced", "quantiles", "paper"]
Solver = Literal["exact", "highs", "slsqp"]
Step = Literal["envelope", "transport", "mixture"]
Schedule = Literal["round", "epoch", "step"]
WindowRule = Literal["explicit", "min_max", "quantiles"]

# The loop.
FoundRadius = Literal["measured", "validated"]
Reference = Literal["sft", "previous"]
Accept = Literal["supported", "supported_any_length", "validated", "always"]
PairSource = Literal["human", "self"]
Selection = Literal["random", "farthest"]
AnnotatorName = Literal["implicit", "heads", "reward_model", "pair_ranker", "judge", "function"]
Pooling = Literal["mean", "last"]
PairChoice = Literal["best_worst", "best_random", "all"]
EvaluationKind = Literal["alpaca", "mt_bench", "judge", "reward", "ifeval", "preferences"]
Coding = Literal["1-2", "0-1"]
Keep = Literal["first", "last"]

# Models and servers.
FinishReason = Literal["stop", "length"]
# Why a request, a response or a verdict is missing; docs/servers.md says when each is meant.
Failure = Literal[
    "filtered", "too_long", "refused", "no_text", "no_answer", "no_verdict", "not_unicode", "other_finish", "not_finite"
]
Dtype = Literal["float32", "bfloat16", "float16", "auto"]
Backend = Literal["transformers", "vllm", "server"]
Dialect = Literal["vllm", "transformers", "llama.cpp", "openai"]


def listed(choices: Any) -> str:
    """The choices of a `Literal` as a message lists them: `'exact', 'highs' or 'slsqp'`."""
    *others, last = map(repr, choices.__args__)
    return f"{', '.join(others)} or {last}"


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raises InputError where a value is none of the choices of a `Literal`."""
    if value not in choices.__args__:
        raise InputError(f"{name} is {value!r}; allowed: {listed(choices)}.")
