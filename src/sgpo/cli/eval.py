"""The commands `sgpo eval ...`: arguments to calls."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from sgpo.choices import Coding, Keep
from sgpo.cli.flags import add_flags, build, flag_of, given
from sgpo.config import EvaluateConfig, FollowerConfig, GenerationConfig, LeaderConfig, ModelConfig
from sgpo.config.options import JudgeOptions, RewardOptions
from sgpo.config.read import named_sources
from sgpo.errors import InputError
from sgpo.store.files import write_json
from sgpo.store.hub import settle_hub_access
from sgpo.store.progress import Reporter, hide_other_bars

# The policy's servers have a flag of their own, because `--servers` are the judge's.
_GENERATION = ("backend", "servers", "server_command", "server_dialect", "server_options", "vllm", "batch_size")


def evaluate(argv: list[str]) -> int:
    """Runs the command. Returns 0."""
    parser = argparse.ArgumentParser(prog="sgpo eval", description="Evaluates a policy, with the keys of a recipe.")
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    for add in (_add_alpaca, _add_mt_bench, _add_judge, _add_reward, _add_ifeval, _add_preferences):
        add(kinds)
    arguments = parser.parse_args(argv)
    return arguments.call(arguments)


def _add_kind(kinds: Any, name: str, call: Any, help_: str, output: str | None = None, **aliases: Sequence[str]) -> Any:
    parser = kinds.add_parser(name, help=help_, description=help_)
    kind = name.replace("-", "_")
    parser.set_defaults(call=call, kind=kind, name=None, reference=None, self_pairs=None, seed=None)
    answers = ", or a file of its answers (.json, .jsonl)" if kind in ("judge", "reward", "ifeval") else ""
    flags = ["--policy", "--responses"] if kind == "ifeval" else ["--policy"]
    parser.add_argument(*flags, metavar="PATH", help=f"Folder or Hub id of the policy{answers}.")
    # Options have flags of their own, and --self-pairs implies a certificate.
    keys = [key for key in EvaluateConfig.keys_of(kind) if key not in ("options", "certificate")]
    add_flags(parser, EvaluateConfig, keys, aliases=aliases)
    parser.add_argument("--output", metavar="PATH", help=output or "File of the result, .json.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    return parser


def _add_alpaca(kinds: Any) -> None:
    help_ = "AlpacaEval 2: write a policy's model_outputs.json, or read its annotations.json."
    parser = _add_kind(kinds, "alpaca", _alpaca, help_, "File of answers to write, .json.")
    parser.add_argument("--name", help="Name of the policy in the file.")
    parser.add_argument("--annotations", metavar="FILE", help="alpaca_eval's annotations.json to read instead.")
    parser.add_argument("--difficulty", metavar="FILE", help="df_gamed.csv, for the full length-controlled model.")
    parser.add_argument("--baseline", metavar="NAME", help="Baseline that the annotations must have.")
    parser.add_argument("--answers", metavar="FILE", help="model_outputs.json that must have been judged.")
    parser.add_argument("--coding", choices=get_args(Coding), help="Coding of preferences: alpaca_eval's 1-2, or 0-1.")
    parser.add_argument("--by-row", action="store_true", help="Find difficulties by row number: none may be missing.")
    _add_generation(parser)


def _add_mt_bench(kinds: Any) -> None:
    help_ = "MT-Bench: write a policy's two-turn answers, or average a judge's scores of them."
    parser = _add_kind(kinds, "mt-bench", _mt_bench, help_, "Folder in which model_answer/NAME.jsonl is written.")
    parser.add_argument("--name", help="Name of the policy in the files.")
    parser.add_argument("--judgments", metavar="FILE", help="FastChat's JUDGE_single or _pair.jsonl to read instead.")
    parser.add_argument("--baseline", metavar="NAME", help="Of pairs: count games against this model only.")
    parser.add_argument("--keep", choices=get_args(Keep), help="The one to read of repeated judgments of a turn.")
    _add_generation(parser)


def _add_judge(kinds: Any) -> None:
    help_ = "Compare a policy's answers with a baseline's by an LLM judge that sees both orders."
    parser = _add_kind(kinds, "judge", _evaluate_policy, help_, baseline=["--second"], servers=["--server"])
    parser.add_argument("--first", dest="policy", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    group = parser.add_argument_group("how the judge is asked")
    add_flags(group, JudgeOptions, JudgeOptions.model_fields)
    group.add_argument("--cache", metavar="DIR", help="Folder of verdicts and answers; defaults to OUTPUT with .cache.")
    group.add_argument("--price-in", type=float, metavar="PRICE", help="Price per million tokens that the judge reads.")
    group.add_argument("--price-out", type=float, metavar="PRICE", help="Price per million tokens that it generates.")
    group.add_argument("--yes", action="store_true", help="Send the requests without confirmation.")
    _add_generation(parser)


def _add_reward(kinds: Any) -> None:
    help_ = "Compare a policy's answers with a baseline's by a reward model or function."
    parser = _add_kind(kinds, "reward", _evaluate_policy, help_, model=["--reward-model"])
    _add_reference(parser)
    group = parser.add_argument_group("how the reward model is loaded")
    add_flags(group, RewardOptions, RewardOptions.model_fields)
    _add_generation(parser)


def _add_ifeval(kinds: Any) -> None:
    help_ = "IFEval and IFBench: check which instructions of its prompts a policy's answers follow."
    output = "File of the result, .json; the answers are written to NAME.responses.jsonl beside it."
    _add_generation(_add_kind(kinds, "ifeval", _evaluate_policy, help_, output))


def _add_preferences(kinds: Any) -> None:
    help_ = "Evaluate a policy's implicit reward on held-out human pairs, and certify it."
    parser = _add_kind(kinds, "preferences", _evaluate_policy, help_)
    _add_reference(parser)
    add_flags(parser, FollowerConfig, ["space"])
    add_flags(parser, LeaderConfig, ["beta", "max_length"])
    add_flags(parser, ModelConfig, ["gguf_file", "dtype", "trust_remote_code"])


def _add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", metavar="PATH", help="The model that the policy started from.")
    parser.add_argument("--self-pairs", metavar="PATH", help="The policy's self-annotated pairs, such as a round's.")


def _add_generation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how the policy generates")
    aliases = {"server_dialect": ["--dialect"], "servers": ["--policy-server"]}
    if parser.get_default("kind") != "judge":
        aliases["servers"].append("--server")
    add_flags(group, GenerationConfig, _GENERATION, aliases=aliases)
    add_flags(group, ModelConfig, ["gguf_file", "dtype", "trust_remote_code"])
    group.add_argument("--seed", type=int, metavar="N", help="Seed of the sampling. Default: 0.")


def _alpaca(arguments: argparse.Namespace) -> int:
    needed = ("policy", "instructions", "name", "output")
    own = ("difficulty", "baseline", "answers", "coding", "by_row")
    if not _reads_verdicts(arguments, "annotations", own, needed, both=("instructions", "split")):
        return _write_answers(arguments, _json_path(arguments.output))
    options = given(arguments, EvaluateConfig)
    instructions, split = options.get("instructions"), options.get("split")
    if split is not None and instructions is None:
        raise InputError("--split goes with --instructions, which is missing.")
    if arguments.by_row and not arguments.difficulty:
        raise InputError("--by-row goes with --difficulty, which is missing.")
    settle_hub_access([instructions])
    from sgpo.evaluate.alpaca import read_annotations, read_instructions
    from sgpo.evaluate.gamed import read_gamed
    from sgpo.evaluate.length_control import report_win_rates

    hide_other_bars()
    asked = read_instructions(instructions, split=split) if instructions else None
    checks = {"baseline": arguments.baseline, "answers": arguments.answers, "coding": arguments.coding}
    annotations = read_annotations(arguments.annotations, asked=asked, **checks)
    gamed = read_gamed(arguments.difficulty) if arguments.difficulty else None
    return _print_result(arguments, report_win_rates(annotations, gamed, by_row=arguments.by_row))


def _mt_bench(arguments: argparse.Namespace) -> int:
    own, needed = ("baseline", "keep"), ("policy", "name", "output")
    if not _reads_verdicts(arguments, "judgments", own, needed, both=("questions", "name")):
        from sgpo.evaluate.runner import ANSWER_FILES

        return _write_answers(arguments, Path(arguments.output) / ANSWER_FILES["mt_bench"].format(name=arguments.name))
    from sgpo.evaluate.mt_bench import read_questions
    from sgpo.evaluate.mt_judgments import average_judgments, holds_pairs, read_judgments, read_pairs

    questions = read_questions(_read_settings(arguments).questions)
    options = {"model": arguments.name, "keep": arguments.keep}
    if holds_pairs(arguments.judgments):
        result = read_pairs(arguments.judgments, questions, baseline=arguments.baseline, **options)
        return _print_result(arguments, {**result, "kind": "mt_bench_pairs"})
    if arguments.baseline is not None:
        raise InputError(f"--baseline goes with comparisons of two models; {arguments.judgments} holds scores of one.")
    read = read_judgments(arguments.judgments, questions, **options)
    names = {"model": read.model, "judge": read.judge, "repeated": read.repeated}
    return _print_result(arguments, {**names, **average_judgments(read)._asdict()})


def _write_answers(arguments: argparse.Namespace, path: Path) -> int:
    """Writes the answers that another program judges."""
    settings = _read_settings(arguments)
    result = _run_job(arguments, settings, answers=path)
    from sgpo.evaluate.results import as_plain, left_out

    count, cut = result["answers"], result["cut"]
    if arguments.json:
        print(json.dumps(as_plain({"file": str(path), "answers": count, "cut": cut, "failed": result["failed"]})))
    else:
        missing = left_out(result, "question" if settings.kind == "mt_bench" else "row", "without an answer")
        print(f"{path}: {count:,} answers, {cut:,} of them cut at {settings.max_new_tokens:,} tokens{missing}.")
    return 0


def _evaluate_policy(arguments: argparse.Namespace) -> int:
    """Evaluates a policy, writes the result and prints it without its rows."""
    settings, files = _read_settings(arguments), {}
    if arguments.policy is None:
        raise InputError("--policy is missing; allowed: the policy to evaluate.")
    output = _json_path(arguments.output) if arguments.output or settings.kind == "judge" else None
    if settings.kind == "judge":
        cache = Path(arguments.cache or output.with_suffix(".cache"))
        files = {"verdicts": cache / "verdicts.jsonl", "keep": cache}
    if settings.kind == "ifeval" and output is not None:
        files = {"answers": output.with_suffix(".responses.jsonl")}
    result = _run_job(arguments, settings, **files)
    if output is not None:
        write_json(output, result)
    rows = ("duels", "rewards", "requests")
    return _print_result(arguments, {key: value for key, value in result.items() if key not in rows})


def _check_answers(arguments: argparse.Namespace, baseline: str | None) -> None:
    """Where all answers are in files, there is nothing to say about how they are generated."""
    from sgpo.evaluate.prompt_files import is_answer_file

    if all(path is None or is_answer_file(path) for path in (arguments.policy, baseline or arguments.reference)):
        sampled = sorted(given(arguments, EvaluateConfig).keys() & {"temperature", "top_p", "max_new_tokens"})
        flags = [flag_of(f"EvaluateConfig.{key}") for key in sampled]
        flags += [flag_of(f"GenerationConfig.{key}") for key in given(arguments, GenerationConfig)]
        if arguments.kind == "ifeval":
            flags += [flag_of(f"ModelConfig.{key}") for key in given(arguments, ModelConfig)]
            flags += ["--seed"] * (arguments.seed is not None)
        if flags:
            raise InputError(f"{flags[0]} goes with a policy that answers, and {arguments.policy} holds its answers.")


def _run_job(arguments: argparse.Namespace, settings: EvaluateConfig, **files: Path) -> dict[str, Any]:
    names = named_sources({"model": {"path": arguments.policy}, "evaluate": [settings.model_dump()]})
    settle_hub_access([*names, arguments.reference, arguments.self_pairs])
    if settings.kind in ("judge", "reward", "ifeval"):
        _check_answers(arguments, settings.baseline)
    from rich.console import Console

    from sgpo.evaluate.judging import describe_cost
    from sgpo.evaluate.runner import Job, Subject, run_evaluation
    from sgpo.policy.generators import as_folder
    from sgpo.policy.tokens import dated
    from sgpo.preferences.source import load_pairs, self_annotated

    hide_other_bars()
    if settings.kind == "judge":
        describe_cost([], [], price_in=arguments.price_in, price_out=arguments.price_out)
    own_pairs = self_annotated(load_pairs(arguments.self_pairs)) if arguments.self_pairs else None
    if arguments.self_pairs and own_pairs is None:
        raise InputError(f"--self-pairs {arguments.self_pairs} has no pair of source 'self'; allowed: at least one.")
    model = as_folder(build(arguments, ModelConfig, path=arguments.policy))
    subject = Subject(
        model=model,
        name=arguments.name or arguments.policy,
        generation=build(arguments, GenerationConfig),
        reference=model.at(arguments.reference) if arguments.reference else None,
        seed=arguments.seed or 0,
        own_pairs=own_pairs,
        **build(arguments, LeaderConfig).model_dump(include={"beta", "max_length"}),
        **given(arguments, FollowerConfig),
    )

    def approve(bodies: list[dict[str, Any]], missing: list[dict[str, Any]]) -> None:
        cost = describe_cost(bodies, missing, price_in=arguments.price_in, price_out=arguments.price_out)
        print(f"{settings.model}: {cost}", file=sys.stderr)
        if missing and not arguments.yes:
            _confirm(f"{len(missing):,} requests to {', '.join(settings.servers)}")

    job = Job(settings, subject, _StagePerBar(Console(stderr=True)), **files, approve=approve)
    with dated(datetime.now()):
        for note in job.check():
            print(f"Warning: {note}", file=sys.stderr)
        return run_evaluation(job)


def _read_settings(arguments: argparse.Namespace) -> EvaluateConfig:
    kind, keys, others = arguments.kind, given(arguments, EvaluateConfig), {"kind": arguments.kind}
    if kind == "judge":
        options = build(arguments, JudgeOptions, seed=arguments.seed or 0)
        others["options"] = options.model_dump(exclude_unset=True)
    if kind == "reward":
        others["options"] = options = build(arguments, RewardOptions).model_dump(exclude_unset=True)
        if options and "function" in keys:
            flag = flag_of(f"RewardOptions.{next(iter(options))}")
            raise InputError(f"{flag} is given with --function, which takes none; leave one of them out.")
        if keys.get("model") and (dtype := given(arguments, ModelConfig).get("dtype")):
            options.setdefault("dtype", dtype)
    if kind == "preferences":
        others["certificate"] = arguments.self_pairs is not None
    try:
        return build(arguments, EvaluateConfig, **others)
    except InputError as error:
        message = str(error).replace(f"kind {kind!r}", f"sgpo eval {kind.replace('_', '-')}")
        raise InputError(message.replace("model or function", "--model or --function")) from error


def _reads_verdicts(
    arguments: argparse.Namespace, file: str, own: Sequence[str], needed: Sequence[str], *, both: Sequence[str]
) -> bool:
    """Whether a command reads a file of verdicts, with the flags `own`, or writes answers, with those `needed`.

    `both` modes take some flags; every other flag that a mode would ignore is refused.
    """
    values = {key: value for key, value in vars(arguments).items() if value not in (None, "") and value is not False}
    found = {key.rpartition(".")[2]: flag_of(key) for key in values}
    reads = file in found
    if not reads and (missing := [name for name in needed if name not in found]):
        listed = ", ".join(f"--{name}" for name in needed)
        raise InputError(f"--{missing[0]} is missing; allowed: --{file}, or all of {listed}.")
    for name, flag in found.items():
        if reads and name not in ("call", "kind", "json", file, *own, *both):
            raise InputError(f"{flag} is given with --{file}, which takes none; leave one of them out.")
        if not reads and name in own:
            raise InputError(f"{flag} goes with --{file}, which is missing.")
    return reads


def _json_path(output: str | None) -> Path:
    if output is None or Path(output).suffix != ".json":
        found = "missing" if output is None else repr(output)
        raise InputError(f"--output is {found}; allowed: a name that ends in .json.")
    return Path(output)


def _confirm(what: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(f"{what} would be sent, and there is no terminal to ask at; allowed: --yes.")
    print(f"Send {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was sent; allowed: y, or --yes.")


class _StagePerBar(Reporter):
    """Shows each bar as a stage of its own."""

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Any]:
        with self.stage(description), super().bar(description, total) as advance:
            yield advance


def _print_result(arguments: argparse.Namespace, result: dict[str, Any]) -> int:
    from rich.console import Console

    from sgpo.evaluate.results import as_plain, result_table

    result = as_plain({"kind": arguments.kind, **result})
    if arguments.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        Console().print(result_table(result))
    for remark in result.get("remarks", ()):
        print(f"Note: {remark}", file=sys.stderr if arguments.json else sys.stdout)
    return 0
