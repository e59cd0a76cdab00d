"""The commands `sgpo eval ...`: their arguments."""

import argparse
import json
from typing import Any

_SOURCES = "file, folder or Hub id"
_CONTESTANT = "a policy (folder or Hub id), or a file of answers (.json, .jsonl)"


def add_eval(commands: Any) -> None:
    """Adds the commands to the parsers of `sgpo`."""
    parser = commands.add_parser("eval", help="answers, verdicts and gaps turned into numbers with intervals")
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    _add_alpaca(kinds)
    _add_mt_bench(kinds)
    _add_judge(kinds)
    _add_reward(kinds)
    _add_preferences(kinds)


def _add_kind(kinds: Any, name: str, help_: str, run: str) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=help_, description=help_)

    def call(arguments: argparse.Namespace) -> int:
        from sgpo.cli import eval_run

        return getattr(eval_run, run)(arguments)

    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(call=call)
    return parser


def _add_alpaca(kinds: Any) -> None:
    parser = _add_kind(
        kinds, "alpaca", "AlpacaEval 2: model_outputs.json from a policy, win rates from annotations.json", "run_alpaca"
    )
    parser.add_argument("--policy", metavar="DIR", help="whose answers to write")
    parser.add_argument("--instructions", metavar="FILE", help=f"the evaluation set, rows with instruction: {_SOURCES}")
    parser.add_argument("--split", metavar="NAME", help="split of the evaluation set, where there are any")
    parser.add_argument("--name", help="the policy's name in the file")
    parser.add_argument("--output", metavar="FILE", help="the file of answers to write, .json")
    parser.add_argument("--annotations", metavar="FILE", help="alpaca_eval's annotations.json to read instead")
    parser.add_argument("--difficulty", metavar="FILE", help="df_gamed.csv, for the full length-controlled model")
    parser.add_argument("--baseline", metavar="NAME", help="the baseline that the annotations must be about")
    parser.add_argument("--answers", metavar="FILE", help="the model_outputs.json that must have been judged")
    _add_generation(parser, max_new_tokens=2048)
    _add_sampling(parser)


def _add_mt_bench(kinds: Any) -> None:
    parser = _add_kind(
        kinds, "mt-bench", "MT-Bench: a policy's two-turn answers, averages of a judge's scores", "run_mt_bench"
    )
    parser.add_argument("--questions", metavar="FILE", required=True, help="FastChat's question.jsonl")
    parser.add_argument("--name", help="the policy's name in the files")
    parser.add_argument("--policy", metavar="DIR", help="whose answers to write")
    parser.add_argument("--output", metavar="DIR", help="folder in which model_answer/NAME.jsonl is written")
    parser.add_argument("--judgments", metavar="FILE", help="FastChat's JUDGE_single.jsonl to read instead")
    _add_generation(parser, max_new_tokens=1024)


def _add_judge(kinds: Any) -> None:
    parser = _add_kind(
        kinds, "judge", "a policy against another, by a language model that sees both orders", "run_judge"
    )
    parser.add_argument("--prompts", metavar="FILE", required=True, help=f"prompts, each once: {_SOURCES}")
    parser.add_argument("--first", required=True, metavar="DIR|FILE", help=f"whose wins are counted: {_CONTESTANT}")
    parser.add_argument("--second", required=True, metavar="DIR|FILE", help="what it is compared with: the same")
    parser.add_argument("--server", nargs="+", required=True, metavar="URL", help="the judge's servers")
    parser.add_argument("--model", required=True, metavar="NAME", help="the judge's name on them")
    parser.add_argument("--output", required=True, metavar="FILE", help="where the result goes, .json")
    parser.add_argument("--template", metavar="FILE", help="with {prompt}, {first}, {second}; default: one of ours")
    parser.add_argument("--logprobs", action="store_true", help="weigh wins by the first token's log-probabilities")
    parser.add_argument("--max-tokens", type=int, default=256, help="of a verdict; default: 256")
    parser.add_argument("--request", type=_fields, default={}, metavar="JSON", help="further fields of a request")
    parser.add_argument("--cache", metavar="DIR", help="where verdicts are kept; default: beside the output, .cache")
    parser.add_argument("--price-in", type=float, metavar="PRICE", help="of a million tokens that the judge reads")
    parser.add_argument("--price-out", type=float, metavar="PRICE", help="of a million tokens that it writes")
    parser.add_argument("--yes", action="store_true", help="ask the judge without asking you first")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one verdict; default: 600")
    parser.add_argument("--concurrency", type=int, default=16, help="open requests at each server; default: 16")
    _add_generation(parser, max_new_tokens=2048, server="--policy-server")
    _add_sampling(parser)


def _add_reward(kinds: Any) -> None:
    parser = _add_kind(kinds, "reward", "a policy against a baseline under a reward model or function", "run_reward")
    parser.add_argument("--prompts", metavar="FILE", required=True, help=f"prompts, each once: {_SOURCES}")
    parser.add_argument("--policy", required=True, metavar="DIR|FILE", help=f"whose wins are counted: {_CONTESTANT}")
    parser.add_argument("--baseline", required=True, metavar="DIR|FILE", help="what it is compared with: the same")
    reward = parser.add_mutually_exclusive_group(required=True)
    reward.add_argument("--reward-model", metavar="DIR", help="sequence-classification reward model")
    reward.add_argument("--function", metavar="NAME", help="package.module:function or file.py:function")
    parser.add_argument("--label", type=int, metavar="N", help="which output of the model is the reward, if several")
    parser.add_argument("--output", metavar="FILE", help="where the result goes, with every reward, .json")
    _add_generation(parser, max_new_tokens=2048)
    _add_sampling(parser)


def _add_preferences(kinds: Any) -> None:
    parser = _add_kind(
        kinds,
        "preferences",
        "a policy's implicit reward on held-out human pairs, its robust certificate",
        "run_preferences",
    )
    parser.add_argument("--policy", required=True, metavar="DIR", help="whose implicit reward")
    parser.add_argument("--reference", required=True, metavar="DIR", help="the model that it refers to")
    parser.add_argument("--pairs", required=True, metavar="FILE", help=f"held-out human pairs: {_SOURCES}")
    parser.add_argument("--split", metavar="NAME", help="split of the pairs, where there are any")
    parser.add_argument("--source-column", metavar="NAME", help="column that names each pair's source; default: source")
    parser.add_argument("--self-pairs", metavar="FILE", help="self-annotated pairs, such as a round's, to certify with")
    parser.add_argument("--space", choices=["margin", "probability"], default="probability", help="of the certificate")
    parser.add_argument("--beta", type=float, default=0.1, help="scale of the implicit reward; default: 0.1")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens at which pairs are cut; default: none")
    parser.add_argument("--output", metavar="FILE", help="where the result goes, .json")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16, float16 or auto; default: float32")


def _add_generation(parser: argparse.ArgumentParser, *, max_new_tokens: int, server: str = "--server") -> None:
    group = parser.add_argument_group("how a policy answers")
    group.add_argument("--backend", choices=["transformers", "vllm", "server"], default="transformers")
    group.add_argument(server, nargs="+", default=[], metavar="URL", dest="policy_server", help="with backend server")
    group.add_argument(
        "--server-command", metavar="COMMAND", help="starts them: {policy}, {host}, {port} are filled in"
    )
    group.add_argument("--dialect", choices=["vllm", "transformers", "openai"], default="vllm", help="of these servers")
    group.add_argument("--max-new-tokens", type=int, default=max_new_tokens, help=f"default: {max_new_tokens}")
    group.add_argument("--batch-size", type=int, default=32, help="answers written at once in process; default: 32")
    group.add_argument("--dtype", default="float32", help="float32, bfloat16, float16 or auto; default: float32")
    group.add_argument("--seed", type=int, default=0, help="default: 0")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperature", type=float, default=0.7, help="0 takes the likeliest token; default: 0.7")
    parser.add_argument("--top-p", type=float, default=1.0, help="nucleus of sampling; default: 1")


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid JSON") from error
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a JSON object")
    return fields
