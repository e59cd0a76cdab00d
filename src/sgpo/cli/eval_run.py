"""The commands `sgpo eval ...`: from arguments to calls, and what is printed."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgpo.errors import InputError
from sgpo.store.hub import settle_hub_access

if TYPE_CHECKING:
    from sgpo.policy.sampling import Generator
    from sgpo.store.progress import Reporter


def run_alpaca(arguments: argparse.Namespace) -> int:
    """Writes model_outputs.json, or reads annotations.json. Returns 0."""
    reading = ("difficulty", "baseline", "answers")
    if _mode(arguments, "annotations", reading, ("policy", "instructions", "name", "output"), may=("instructions",)):
        return _read_alpaca(arguments)
    settle_hub_access([arguments.policy, arguments.instructions])
    from sgpo.evaluate.alpaca import read_instructions, write_model_outputs
    from sgpo.evaluate.responding import answer_prompts

    _check_suffix(arguments.output, "--output")
    reporter = _prepare()
    asked = read_instructions(arguments.instructions, split=arguments.split)
    prompts = [[{"role": "user", "content": instruction}] for instruction in asked.instructions]
    sampling = _sampling(arguments)
    with (
        _generator(arguments, arguments.policy) as generator,
        reporter.stage("answers"),
        reporter.bar("answers", len(prompts)) as advance,
    ):
        written = answer_prompts(generator, prompts, sampling, seed=arguments.seed, progress=advance)
    path = write_model_outputs(arguments.output, asked, written.texts, arguments.name)
    return _wrote(arguments, path, len(prompts), written.cut)


def _read_alpaca(arguments: argparse.Namespace) -> int:
    settle_hub_access([arguments.instructions])
    from sgpo.evaluate.alpaca import read_annotations, read_instructions, read_model_outputs
    from sgpo.evaluate.gamed import read_gamed
    from sgpo.evaluate.length_control import length_controlled_win_rate, raw_win_rate
    from sgpo.evaluate.tables import alpaca_table

    _prepare()
    asked = read_instructions(arguments.instructions, split=arguments.split) if arguments.instructions else None
    answers = read_model_outputs(arguments.answers) if arguments.answers else None
    read = read_annotations(arguments.annotations, asked=asked, baseline=arguments.baseline, answers=answers)
    arrays = (read.preferences, read.lengths, read.baseline_lengths)
    raw, controlled = raw_win_rate(read.preferences), [length_controlled_win_rate(*arrays)]
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
    return _report(arguments, result, alpaca_table(read, raw, controlled))


def run_mt_bench(arguments: argparse.Namespace) -> int:
    """Writes model_answer/NAME.jsonl, or reads judgements. Returns 0."""
    from sgpo.evaluate.mt_bench import read_questions, write_answers

    if _mode(arguments, "judgments", (), ("policy", "name", "output"), may=("name",)):
        from sgpo.evaluate.mt_judgments import average_judgments, read_judgments
        from sgpo.evaluate.tables import mt_bench_table

        questions = read_questions(arguments.questions)
        read = read_judgments(arguments.judgments, questions, model=arguments.name)
        averages = average_judgments(read)
        result = {"model": read.model, "judge": read.judge, **averages._asdict()}
        return _report(arguments, result, mt_bench_table(read, averages))
    settle_hub_access([arguments.policy])
    from sgpo.evaluate.responding import answer_questions

    reporter, questions = _prepare(), read_questions(arguments.questions)
    count = sum(len(question.turns) for question in questions)
    with (
        _generator(arguments, arguments.policy) as generator,
        reporter.stage("answers"),
        reporter.bar("turns", count) as advance,
    ):
        written = answer_questions(
            generator, questions, max_new_tokens=arguments.max_new_tokens, seed=arguments.seed, progress=advance
        )
    path = Path(arguments.output) / "model_answer" / f"{arguments.name}.jsonl"
    return _wrote(arguments, write_answers(path, questions, written.turns, arguments.name), count, written.cut)


def run_judge(arguments: argparse.Namespace) -> int:
    """Has a judge compare two policies. Returns 0."""
    settle_hub_access([arguments.prompts, arguments.first, arguments.second])
    from sgpo.evaluate.judging import PairwiseJudge
    from sgpo.evaluate.prompt_files import read_prompts
    from sgpo.evaluate.request_cost import estimate_cost
    from sgpo.evaluate.tables import judge_table
    from sgpo.serving.cache import CachedPool
    from sgpo.serving.client import ServerPool

    output = _check_suffix(arguments.output, "--output")
    reporter = _prepare()
    store = Path(arguments.cache) if arguments.cache else output.with_suffix(".cache")
    limits = {"timeout": arguments.timeout, "concurrency": arguments.concurrency}
    pool = CachedPool(ServerPool(arguments.server, **limits), store / "verdicts.jsonl")
    judge = PairwiseJudge(
        arguments.model,
        template=arguments.template,
        logprobs=arguments.logprobs,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
        request=arguments.request,
    )
    prompts = read_prompts(arguments.prompts)
    first, second = (
        _answers(arguments, place, prompts, reporter, store) for place in (arguments.first, arguments.second)
    )
    bodies = judge.requests(prompts, first.texts, second.texts)
    prices = {"price_in": arguments.price_in, "price_out": arguments.price_out}
    cost = estimate_cost(bodies, pool.missing(bodies), **prices)
    print(f"{arguments.model}: {cost}", file=sys.stderr)
    if cost.to_ask and not arguments.yes:
        _confirm(f"{cost.to_ask:,} requests to {', '.join(arguments.server)}")
    with reporter.stage("verdicts"), reporter.bar("verdicts", len(bodies)) as advance:
        result = judge.compare(pool, prompts, first.texts, second.texts, progress=advance)
    named = {"first": first.name, "second": second.name, "judge": arguments.model, "logprobs": arguments.logprobs}
    rows = [{"prompt": list(prompt), **duel._asdict()} for prompt, duel in zip(prompts, result.duels, strict=True)]
    summary = {key: value for key, value in result._asdict().items() if key != "duels"}
    _write_result(output, {**named, **summary, "duels": rows})
    return _report(arguments, {**named, **summary}, judge_table(result, first.name, second.name, arguments.model))


def run_reward(arguments: argparse.Namespace) -> int:
    """Compares a policy with a baseline under a reward. Returns 0."""
    settle_hub_access([arguments.prompts, arguments.policy, arguments.baseline, arguments.reward_model])
    from sgpo.evaluate.prompt_files import read_prompts
    from sgpo.evaluate.rewarding import compare_by_reward
    from sgpo.evaluate.tables import reward_table

    if arguments.function and arguments.label is not None:
        raise InputError(f"--label is {arguments.label} with --function, which has no outputs to choose from.")
    output = _check_suffix(arguments.output, "--output") if arguments.output else None
    reporter, prompts = _prepare(), read_prompts(arguments.prompts)
    policy, baseline = (
        _answers(arguments, place, prompts, reporter, None) for place in (arguments.policy, arguments.baseline)
    )
    if arguments.function:
        from sgpo.preferences.annotators.function import FunctionAnnotator

        annotator = FunctionAnnotator(arguments.function)
    else:
        from sgpo.preferences.annotators.reward_model import RewardModel

        annotator = RewardModel(arguments.reward_model, label=arguments.label, dtype=arguments.dtype)
    with reporter.stage("rewards"), reporter.bar("rewards", len(prompts)) as advance:
        result = compare_by_reward(annotator, prompts, policy.texts, baseline.texts, progress=advance)
    named = {
        "policy": policy.name,
        "baseline": baseline.name,
        "by": arguments.function or arguments.reward_model,
    }
    summary = {**named, **{key: value for key, value in result._asdict().items() if key != "rewards"}}
    if output is not None:
        _write_result(output, {**summary, "rewards": result.rewards.tolist()})
    return _report(arguments, summary, reward_table(result, policy.name, baseline.name))


def run_preferences(arguments: argparse.Namespace) -> int:
    """Reports a policy's implicit reward on held-out pairs. Returns 0."""
    settle_hub_access([arguments.policy, arguments.reference, arguments.pairs, arguments.self_pairs])
    from sgpo.evaluate.held_out import implicit_gaps, pair_sources, report_held_out, score_pairs
    from sgpo.evaluate.tables import held_out_table
    from sgpo.policy.load import load_policy
    from sgpo.preferences.source import load_pairs

    output = _check_suffix(arguments.output, "--output") if arguments.output else None
    reporter = _prepare()
    sets = [load_pairs(arguments.pairs, split=arguments.split)]
    sources = pair_sources(sets[0], arguments.source_column, arguments.pairs)
    if arguments.self_pairs:
        sets.append(load_pairs(arguments.self_pairs))
    scores = []
    for name in ("reference", "policy"):
        # One model at a time is in memory.
        model = load_policy(getattr(arguments, name), dtype=arguments.dtype)
        with (
            reporter.stage(f"scores of the {name}"),
            reporter.bar("responses", 2 * sum(map(len, sets))) as advance,
        ):
            scores.append(
                [score_pairs(model, pairs, max_length=arguments.max_length, progress=advance) for pairs in sets]
            )
        del model
    gaps = [implicit_gaps(own, base, arguments.beta) for base, own in zip(*scores, strict=True)]
    report = report_held_out(
        gaps[0],
        scores[1][0],
        sources=sources,
        own_gaps=gaps[1] if arguments.self_pairs else None,
        space=arguments.space,
    )
    result = {"policy": arguments.policy, "reference": arguments.reference, **report._asdict()}
    if output is not None:
        _write_result(output, result)
    return _report(arguments, result, held_out_table(report, arguments.policy))


def _mode(
    arguments: argparse.Namespace, reads: str, reading: Sequence[str], writing: Sequence[str], *, may: Sequence[str]
) -> bool:
    """Whether a command reads verdicts instead of writing answers; what goes with the other is refused."""
    names = {name: getattr(arguments, name) is not None for name in (reads, *reading, *writing)}
    if not names[reads]:
        for name in writing:
            if not names[name]:
                raise InputError(f"--{name} is missing; allowed: --{reads}, or all of {_listed(writing)}.")
        for name in reading:
            if names[name]:
                raise InputError(f"--{name} goes with --{reads}, which is not there.")
    for name in writing if names[reads] else ():
        if names[name] and name not in may:
            raise InputError(f"--{name} is given beside --{reads}, which needs none; leave one of them out.")
    return names[reads]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def _check_suffix(path: str, name: str) -> Path:
    if Path(path).suffix != ".json":
        raise InputError(f"{name} is {path!r}; allowed: a name that ends in .json.")
    return Path(path)


def _prepare() -> "Reporter":
    import datasets
    import transformers
    from rich.console import Console

    from sgpo.store.progress import Reporter

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    return Reporter(Console(stderr=True))


def _sampling(arguments: argparse.Namespace):
    from sgpo.policy.sampling import Sampling

    options = {"temperature": arguments.temperature, "top_p": arguments.top_p}
    return Sampling(n=1, max_new_tokens=arguments.max_new_tokens, **options)


@contextmanager
def _generator(arguments: argparse.Namespace, policy: str) -> "Iterator[Generator]":
    import tempfile

    from sgpo.config import Recipe, validate
    from sgpo.policy.generators import open_generator
    from sgpo.policy.load import load_policy
    from sgpo.store.processes import Processes

    generation = {
        "backend": arguments.backend,
        "batch_size": arguments.batch_size,
        "servers": arguments.policy_server,
        "server_command": arguments.server_command,
        "server_dialect": arguments.dialect,
    }
    content = {"output": "none", "model": {"path": policy, "dtype": arguments.dtype}, "generation": generation}
    recipe = validate(Recipe, content, "arguments")
    with tempfile.TemporaryDirectory(prefix="sgpo-eval-") as folder:
        log = Path(folder) / "server.log"
        with open_generator(
            recipe, policy, lambda: load_policy(policy, dtype=arguments.dtype), Processes(), log
        ) as generator:
            yield generator


def _answers(arguments: argparse.Namespace, contestant: str, prompts, reporter: "Reporter", store: Path | None):
    from sgpo.evaluate.contestants import answers_of
    from sgpo.evaluate.responding import answer_prompts

    sampling = _sampling(arguments)

    def generate(policy: str, asked):
        with (
            _generator(arguments, policy) as generator,
            reporter.stage(f"answers of {Path(policy).name}"),
            reporter.bar("answers", len(asked)) as advance,
        ):
            return answer_prompts(generator, asked, sampling, seed=arguments.seed, progress=advance)

    kept = ("temperature", "top_p", "max_new_tokens", "seed", "dtype", "backend")
    settings = {name: getattr(arguments, name) for name in kept}
    return answers_of(contestant, prompts, generate, settings=settings, store=store)


def _confirm(what: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(f"{what} would be sent, and there is no terminal to ask at; allowed: --yes.")
    print(f"Send {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was sent; allowed: y, or --yes.")


def _write_result(path: Path, result: dict[str, Any]) -> None:
    from sgpo.evaluate.plain import as_plain
    from sgpo.store.run_dir import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(as_plain(result), indent=2, allow_nan=False) + "\n")


def _wrote(arguments: argparse.Namespace, path: Path, answers: int, cut: int) -> int:
    if arguments.json:
        print(json.dumps({"file": str(path), "answers": answers, "cut": cut}))
    else:
        print(f"{path}: {answers:,} answers, {cut:,} of them cut at {arguments.max_new_tokens:,} tokens.")
    return 0


def _report(arguments: argparse.Namespace, result: dict[str, Any], table) -> int:
    from rich.console import Console

    from sgpo.evaluate.plain import as_plain

    if arguments.json:
        print(json.dumps(as_plain(result), indent=2, allow_nan=False))
    else:
        Console().print(table)
    return 0
