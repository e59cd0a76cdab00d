"""The commands `sgpo eval ...`: arguments to calls."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sgpo.cli.flags import add_flags, given
from sgpo.config import EvaluateConfig, FollowerConfig, GenerationConfig, LeaderConfig, ModelConfig, validate
from sgpo.config.evaluation import JudgeOptions, RewardOptions
from sgpo.config.read import named_sources
from sgpo.errors import InputError
from sgpo.store.hub import settle_hub_access

_CONTESTANT = "Folder or Hub id of a policy, or a file of answers (.json, .jsonl)."
# The policy's servers have a flag of their own, because `--servers` are the judge's.
_GENERATION = ("backend", "servers", "server_command", "server_dialect", "server_options", "vllm", "batch_size")
_ROWS = ("duels", "rewards")


def evaluate(argv: list[str]) -> int:
    """Runs the command. Returns 0."""
    arguments = _parser().parse_args(argv)
    return arguments.call(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sgpo eval", description="Evaluates a policy; recipes have the same keys.")
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    _add_alpaca(kinds)
    _add_mt_bench(kinds)
    _add_judge(kinds)
    _add_reward(kinds)
    _add_preferences(kinds)
    return parser


def _add_kind(kinds: Any, name: str, help_: str, call: Any, *, policy: str, aliases: dict[str, list[str]]) -> Any:
    kind = name.replace("-", "_")
    parser = kinds.add_parser(name, help=help_, description=help_)
    parser.add_argument("--policy", metavar="DIR", help=policy)
    # Options have flags of their own, and --self-pairs implies a certificate.
    keys = [key for key in EvaluateConfig.keys_of(kind) if key not in ("options", "certificate")]
    add_flags(parser, EvaluateConfig, keys, aliases=aliases)
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(call=call, kind=kind)
    return parser


def _add_alpaca(kinds: Any) -> None:
    help_ = "AlpacaEval 2: model_outputs.json from a policy, win rates from annotations.json"
    parser = _add_kind(kinds, "alpaca", help_, _alpaca, policy="Folder or Hub id of the policy.", aliases={})
    parser.add_argument("--name", help="Name of the policy in the file.")
    parser.add_argument("--output", metavar="FILE", help="File of answers to write, .json.")
    parser.add_argument("--annotations", metavar="FILE", help="alpaca_eval's annotations.json to read instead.")
    parser.add_argument("--difficulty", metavar="FILE", help="df_gamed.csv, for the full length-controlled model.")
    parser.add_argument("--baseline", metavar="NAME", help="Baseline that the annotations must have.")
    parser.add_argument("--answers", metavar="FILE", help="model_outputs.json that must have been judged.")
    _add_generation(parser)


def _add_mt_bench(kinds: Any) -> None:
    help_ = "MT-Bench: two-turn answers of a policy, averages of a judge's scores"
    parser = _add_kind(kinds, "mt-bench", help_, _mt_bench, policy="Folder or Hub id of the policy.", aliases={})
    parser.add_argument("--name", help="Name of the policy in the files.")
    parser.add_argument("--output", metavar="DIR", help="Folder in which model_answer/NAME.jsonl is written.")
    parser.add_argument("--judgments", metavar="FILE", help="FastChat's JUDGE_single.jsonl to read instead.")
    _add_generation(parser)


def _add_judge(kinds: Any) -> None:
    help_ = "compares a policy with another by an LLM judge that sees both orders"
    aliases = {"baseline": ["--second"], "servers": ["--server"]}
    parser = _add_kind(kinds, "judge", help_, _compare, policy=_CONTESTANT, aliases=aliases)
    parser.add_argument("--first", dest="policy", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--output", metavar="FILE", help="File of the result, .json.")
    group = parser.add_argument_group("how the judge is asked")
    renamed = {"temperature": "--judge-temperature", "seed": "--judge-seed"}
    add_flags(group, JudgeOptions, JudgeOptions.model_fields, renamed=renamed)
    group.add_argument("--cache", metavar="DIR", help="Folder of verdicts and answers; defaults to OUTPUT with .cache.")
    group.add_argument("--price-in", type=float, metavar="PRICE", help="Of a million tokens that the judge reads.")
    group.add_argument("--price-out", type=float, metavar="PRICE", help="Of a million tokens that it generates.")
    group.add_argument("--yes", action="store_true", help="Send the requests without confirmation.")
    _add_generation(parser)


def _add_reward(kinds: Any) -> None:
    help_ = "compares a policy with a baseline by a reward model or function"
    parser = _add_kind(kinds, "reward", help_, _compare, policy=_CONTESTANT, aliases={"model": ["--reward-model"]})
    _add_reference(parser)
    parser.add_argument("--output", metavar="FILE", help="File of the result with every reward, .json.")
    group = parser.add_argument_group("how the reward model is loaded")
    renamed = {key: f"--reward-{key.replace('_', '-')}" for key in RewardOptions.model_fields if key != "label"}
    add_flags(group, RewardOptions, RewardOptions.model_fields, renamed=renamed)
    _add_generation(parser)


def _add_preferences(kinds: Any) -> None:
    help_ = "a policy's implicit reward on held-out human pairs, and its robust certificate"
    parser = _add_kind(kinds, "preferences", help_, _compare, policy="Folder or Hub id of the policy.", aliases={})
    _add_reference(parser)
    add_flags(parser, FollowerConfig, ["space"])
    add_flags(parser, LeaderConfig, ["beta"])
    parser.add_argument("--max-length", type=int, metavar="N", help="Tokens at which pairs are cut; default: none.")
    parser.add_argument("--output", metavar="FILE", help="File of the result, .json.")
    add_flags(parser, ModelConfig, ["dtype", "trust_remote_code"])


def _add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", metavar="DIR", help="The model that the policy started from.")
    parser.add_argument("--self-pairs", metavar="FILE", help="The policy's self-annotated pairs, such as a round's.")


def _add_generation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how the policy generates")
    aliases = {"server_dialect": ["--dialect"], "servers": ["--policy-server"]}
    if parser.get_default("kind") != "judge":
        aliases["servers"].append("--server")
    add_flags(group, GenerationConfig, _GENERATION, renamed={"servers": "--policy-servers"}, aliases=aliases)
    add_flags(group, ModelConfig, ["dtype", "trust_remote_code"])
    group.add_argument("--seed", type=int, default=0, metavar="N", help="Of sampling. Default: 0.")


def _alpaca(arguments: argparse.Namespace) -> int:
    reading = ("difficulty", "baseline", "answers")
    if _reads(arguments, "annotations", reading, ("policy", "instructions", "name", "output"), may=("instructions",)):
        return _read_alpaca(arguments)
    return _generate(arguments, _json_path(arguments.output))


def _mt_bench(arguments: argparse.Namespace) -> int:
    if not _reads(arguments, "judgments", (), ("policy", "name", "output"), may=("name",)):
        from sgpo.evaluate.runner import ANSWER_FILES

        return _generate(arguments, Path(arguments.output) / ANSWER_FILES["mt_bench"].format(name=arguments.name))
    from sgpo.evaluate.mt_bench import read_questions
    from sgpo.evaluate.mt_judgments import average_judgments, read_judgments
    from sgpo.evaluate.tables import mt_bench_table

    settings = _settings(arguments)
    read = read_judgments(arguments.judgments, read_questions(settings.questions), model=arguments.name)
    averages = average_judgments(read)
    result = {"model": read.model, "judge": read.judge, **averages._asdict()}
    return _print(arguments, result, mt_bench_table(read, averages))


def _read_alpaca(arguments: argparse.Namespace) -> int:
    options = given(arguments, EvaluateConfig)
    settle_hub_access([options.get("instructions")])
    from sgpo.evaluate.alpaca import read_annotations, read_instructions
    from sgpo.evaluate.gamed import read_gamed
    from sgpo.evaluate.length_control import NEEDS_EXTRA, length_controlled_win_rate, raw_win_rate
    from sgpo.evaluate.tables import alpaca_table

    _reporter()
    asked = None
    if "instructions" in options:
        asked = read_instructions(options["instructions"], split=options.get("split"))
    checks = {"asked": asked, "baseline": arguments.baseline, "answers": arguments.answers}
    read = read_annotations(arguments.annotations, **checks)
    raw, controlled = raw_win_rate(read.preferences), []
    arrays = (read.preferences, read.lengths, read.baseline_lengths)
    if find_spec("sklearn") is None:
        print(f"sgpo eval: {NEEDS_EXTRA}", file=sys.stderr)
    else:
        controlled.append(length_controlled_win_rate(*arrays))
        if arguments.difficulty:
            gamed = read_gamed(arguments.difficulty)
            controlled.append(length_controlled_win_rate(*arrays, gamed=gamed, places=read.places))
    result = {
        "generator": read.generator,
        "baseline": read.baseline,
        "annotator": read.annotator,
        "raw": raw,
        "length_controlled": {one.model: one for one in controlled},
    }
    return _print(arguments, result, alpaca_table(read, raw, controlled))


def _generate(arguments: argparse.Namespace, path: Path) -> int:
    """Writes the answers that another program judges."""
    settings = _settings(arguments)
    result = _run(arguments, settings, {"answers": path})
    if arguments.json:
        print(json.dumps({"file": str(path), "answers": result["answers"], "cut": result["cut"]}))
    else:
        cut = f"{result['cut']:,} of them cut at {settings.max_new_tokens:,} tokens"
        print(f"{path}: {result['answers']:,} answers, {cut}.")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    """Evaluates a policy, writes the result and prints it without its rows."""
    settings, files = _settings(arguments), {}
    if arguments.policy is None:
        raise InputError("--policy is missing; allowed: the policy to evaluate.")
    output = _json_path(arguments.output) if arguments.output else None
    if settings.kind == "judge":
        if output is None:
            raise InputError("--output is missing; allowed: a name that ends in .json.")
        cache = Path(arguments.cache) if arguments.cache else output.with_suffix(".cache")
        files = {"verdicts": cache / "verdicts.jsonl", "keep": cache}
    result = _run(arguments, settings, files)
    from sgpo.evaluate.plain import as_plain
    from sgpo.evaluate.tables import result_table
    from sgpo.store.files import write_json

    if output is not None:
        write_json(output, as_plain(result))
    return _print(arguments, {key: value for key, value in result.items() if key not in _ROWS}, result_table(result))


def _run(arguments: argparse.Namespace, settings: EvaluateConfig, files: dict[str, Path]) -> dict[str, Any]:
    reference, self_pairs = getattr(arguments, "reference", None), getattr(arguments, "self_pairs", None)
    names = named_sources({"model": {"path": arguments.policy}, "evaluate": [settings.model_dump()]})
    settle_hub_access([*names, reference, self_pairs])
    from sgpo.evaluate.runner import Files, Job, Subject, run_evaluation

    reporter = _reporter()
    model = validate(ModelConfig, {"path": arguments.policy, **given(arguments, ModelConfig)}, "arguments")
    options: dict[str, Any] = {**given(arguments, FollowerConfig), **given(arguments, LeaderConfig)}
    if self_pairs:
        from sgpo.evaluate.held_out import self_annotated
        from sgpo.preferences.source import load_pairs

        options["own_pairs"] = self_annotated(load_pairs(self_pairs))
    subject = Subject(
        model=model,
        name=getattr(arguments, "name", None) or arguments.policy,
        generation=validate(GenerationConfig, given(arguments, GenerationConfig), "arguments"),
        reference=model.at(reference) if reference else None,
        seed=getattr(arguments, "seed", 0),
        max_length=getattr(arguments, "max_length", None),
        **options,
    )

    def approve(bodies: list[dict[str, Any]], missing: list[dict[str, Any]]) -> None:
        from sgpo.evaluate.request_cost import describe_cost

        cost = describe_cost(bodies, missing, price_in=arguments.price_in, price_out=arguments.price_out)
        print(f"{settings.model}: {cost}", file=sys.stderr)
        if missing and not arguments.yes:
            _confirm(f"{len(missing):,} requests to {', '.join(settings.servers)}")

    return run_evaluation(Job(settings, subject, Files(**files), reporter, approve))


def _settings(arguments: argparse.Namespace) -> EvaluateConfig:
    content = {"kind": arguments.kind, **given(arguments, EvaluateConfig)}
    if arguments.kind == "judge":
        content["options"] = {"seed": arguments.seed, **given(arguments, JudgeOptions)}
    if arguments.kind == "reward":
        content["options"] = given(arguments, RewardOptions)
        if content.get("model") and (dtype := given(arguments, ModelConfig).get("dtype")):
            content["options"] = {"dtype": dtype, **content["options"]}
    if arguments.kind == "preferences":
        content["certificate"] = arguments.self_pairs is not None
    return validate(EvaluateConfig, content, "arguments")


def _reads(
    arguments: argparse.Namespace, reads: str, reading: Sequence[str], writing: Sequence[str], *, may: Sequence[str]
) -> bool:
    """Whether a command reads verdicts instead of writing answers; flags of the other mode are refused."""
    values = {**vars(arguments), **given(arguments, EvaluateConfig)}
    names = {name: values.get(name) is not None for name in (reads, *reading, *writing)}
    if not names[reads]:
        for name in writing:
            if not names[name]:
                listed = ", ".join(f"--{one}" for one in writing)
                raise InputError(f"--{name} is missing; allowed: --{reads}, or all of {listed}.")
        for name in reading:
            if names[name]:
                raise InputError(f"--{name} goes with --{reads}, which is missing.")
    for name in writing if names[reads] else ():
        if names[name] and name not in may:
            raise InputError(f"--{name} is given with --{reads}, which takes none; leave one of them out.")
    return names[reads]


def _json_path(output: str) -> Path:
    if Path(output).suffix != ".json":
        raise InputError(f"--output is {output!r}; allowed: a name that ends in .json.")
    return Path(output)


def _confirm(what: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(f"{what} would be sent, and there is no terminal to ask at; allowed: --yes.")
    print(f"Send {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was sent; allowed: y, or --yes.")


def _reporter() -> Any:
    """A reporter on standard error that shows each bar as a stage of its own."""
    import datasets
    import transformers
    from rich.console import Console

    from sgpo.store.progress import Reporter

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()

    class Steps(Reporter):
        @contextmanager
        def bar(self, description: str, total: int) -> Iterator[Any]:
            with self.stage(description), super().bar(description, total) as advance:
                yield advance

    return Steps(Console(stderr=True))


def _print(arguments: argparse.Namespace, result: dict[str, Any], table: Any) -> int:
    from rich.console import Console

    from sgpo.evaluate.plain import as_plain

    if arguments.json:
        print(json.dumps(as_plain(result), indent=2, allow_nan=False))
    else:
        Console().print(table)
    return 0
