"""The evaluations that a recipe asks for after each round: stages with results of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sgpo.config import EvaluateConfig, RunConfig
from sgpo.errors import InputError
from sgpo.evaluate.prompt_files import is_answer_file, read_prompts, write_answers_to
from sgpo.evaluate.runner import ANSWER_FILES, Job, Subject, check_inputs, run_evaluation
from sgpo.leader.scores import REFERENCE_COLUMNS
from sgpo.policy.generators import load_model
from sgpo.preferences.source import load_pairs, self_annotated
from sgpo.rounds.context import Run
from sgpo.rounds.costs import RESPONSE_SHARE, Scale, StagePlan
from sgpo.rounds.data import check_fit
from sgpo.store.files import read_json, reading_back, write_json
from sgpo.store.records import Headline, parse_record

RESULT = "result.json"


def check_evaluations(config: RunConfig) -> dict[str, int]:
    """Reads what every evaluation of a recipe needs, and returns the number of answers or pairs of each, by name;
    InputError for a mistake, before the first round."""
    counts = {}
    for settings in config.evaluate:
        with _naming(settings):
            counts[settings.title] = check_inputs(settings)
            if settings.pairs:
                pairs = load_pairs(settings.pairs, split=settings.split)
                check_fit(config, load_model(config.model, "meta"), pairs, settings.pairs)
            needs_sft = settings.prompts and settings.baseline is None
            if needs_sft and config.model.adapter and config.generation.backend != "transformers":
                raise InputError(
                    "baseline is null, the SFT model with an adapter, and generation.backend "
                    f"{config.generation.backend!r} loads whole models; allowed: a file of answers, or a merged model."
                )
    return counts


def evaluate_round(run: Run, number: int) -> None:
    """Evaluates the policy of a round, unless the results are on disk."""
    for settings in run.config.evaluate:
        with _naming(settings):
            _prepare(run, settings)
            folder = f"{run.folder(number)}/{_shared(settings)}"
            run.stages.alone(folder, lambda path, settings=settings: _evaluate(run, settings, number, path))


def plan_evaluations(config: RunConfig, scale: Scale, number: int) -> list[StagePlan]:
    """The stages of `evaluate_round`; hours are those of answering, or of scoring pairs."""
    stages, folder = [], "final" if number > config.rounds else f"round-{number}"
    for settings in config.evaluate:
        count, unit = scale.evaluated.get(settings.title), "pairs" if settings.pairs else "answers"
        what, time = unit, None
        if count is not None:
            answer = scale.prompt_tokens + RESPONSE_SHARE * settings.max_new_tokens
            tokens = count * (2 * scale.human_tokens if settings.pairs else answer)
            what, time = f"{count} {unit}", scale.hours(config.hardware, tokens, generating=not settings.pairs)
        if number == 0 and (shared := _shared_stage(settings)) is not None:
            whose = "scored by the reference" if settings.pairs else f"of {settings.baseline or 'the SFT model'}"
            stages.append(StagePlan(shared, f"{what} {whose}", time))
        if settings.kind == "reward" and time is not None:
            # Policy and reference score the answers, for the KL.
            time += scale.hours(config.hardware, 2 * tokens)
        stages.append(StagePlan(f"{folder}/{_shared(settings)}", f"{settings.kind}: {what}", time))
    return stages


def headlines(run: Run, number: int) -> dict[str, Headline]:
    """The evaluations of a round in short, by name, for its metrics."""
    found = {}
    for settings in run.config.evaluate:
        path = run.root / run.folder(number) / _shared(settings) / RESULT
        result = read_json(path)
        short = {key: result[key] for key in Headline.model_fields if key in result}
        found[settings.title] = parse_record(Headline, short, str(path))
    return found


@contextmanager
def _naming(settings: EvaluateConfig) -> Iterator[None]:
    """Adds the evaluation's name to the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"evaluate, {settings.title}: {error}") from error


def _shared(settings: EvaluateConfig) -> str:
    """The folder of what all rounds share, in the run; a round's own has the same name in the round."""
    return f"evaluations/{settings.title}"


def _shared_stage(settings: EvaluateConfig) -> str | None:
    """The stage that all rounds share: the reference's scores, or the baseline's answers unless a file has them."""
    if settings.pairs:
        return f"{_shared(settings)}/reference.npy"
    has_file = settings.baseline and is_answer_file(settings.baseline)
    return f"{_shared(settings)}/baseline.json" if settings.prompts and not has_file else None


def _prepare(run: Run, settings: EvaluateConfig) -> None:
    if (stage := _shared_stage(settings)) is not None:
        job = Job(settings, _subject(run, settings), run.reporter, log=run.root / "evaluations.log")
        write = _write_reference if settings.pairs else _write_baseline
        run.stages.alone(stage, lambda path: write(job, path))


def _write_baseline(job: Job, path: Path) -> None:
    prompts = read_prompts(job.settings.prompts, split=job.settings.split)
    answers = job.baseline(prompts)
    write_answers_to(path, prompts, answers._replace(name=job.settings.baseline or "the SFT model"))


def _write_reference(job: Job, path: Path) -> None:
    [logps] = job.score_reference([load_pairs(job.settings.pairs, split=job.settings.split)])
    with path.open("wb") as file:
        np.save(file, logps, allow_pickle=False)


def _evaluate(run: Run, settings: EvaluateConfig, number: int, path: Path) -> None:
    path.mkdir()
    subject, shared = _subject(run, settings, number), run.root / _shared(settings)
    if (baseline := shared / "baseline.json").is_file():
        settings = settings.model_copy(update={"baseline": str(baseline)})
    job = Job(
        settings,
        subject,
        run.reporter,
        answers=path / ANSWER_FILES.get(settings.kind, "answers.json").format(name=subject.name),
        samples=path / "samples.jsonl",
        verdicts=shared / "verdicts.jsonl",
        log=run.root / "evaluations.log",
    )
    write_json(path / RESULT, run_evaluation(job))


def _subject(run: Run, settings: EvaluateConfig, number: int | None = None) -> Subject:
    """The policy of a round, with its pairs and what is known of their scores; None: the SFT model."""
    config, name, own, logps = run.config, "the SFT model", None, None
    if number is not None:
        name, logps = f"{run.root.resolve().name}-{run.folder(number)}", []
        if settings.pairs:
            path = run.root / _shared(settings) / "reference.npy"
            with reading_back(path):
                logps.append(np.load(path, allow_pickle=False))
        # Round 0 and the last DPO train on human pairs alone.
        if 0 < number < run.final and (own := self_annotated(run.load(f"round-{number}/pairs"))) is not None:
            logps.append(np.array([own[column] for column in REFERENCE_COLUMNS]))
    return Subject(
        model=run.model(number),
        name=name,
        generation=config.generation,
        reference=config.model,
        # The same in all rounds, so that rounds differ by their policies alone.
        seed=run.stages.seed(_shared(settings)),
        beta=config.leader.beta,
        max_length=config.leader.max_length,
        space=config.follower.space,
        own_pairs=own,
        reference_logps=logps,
    )
