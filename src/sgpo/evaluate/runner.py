"""One runner for every kind of evaluation: `sgpo eval` and the rounds of a run both call `run_evaluation`."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from sgpo.choices import Failure, Space
from sgpo.config import EvaluateConfig, FollowerConfig, GenerationConfig, LeaderConfig, ModelConfig
from sgpo.errors import InputError, check_failed, naming_rows
from sgpo.evaluate.alpaca import Instructions, read_instructions, write_model_outputs
from sgpo.evaluate.ifeval import read_requests, report_following
from sgpo.evaluate.judging import compare_by_judge, open_duels, open_judge
from sgpo.evaluate.mt_bench import NO_ANSWER, answer_questions, read_questions, write_answers
from sgpo.evaluate.prompt_files import (
    Answers,
    answer_rows,
    answers_key,
    by_reason,
    describe_answers,
    is_answer_file,
    kept_answers,
    missing,
    read_answers_to,
    read_prompts,
    write_answers_to,
)
from sgpo.evaluate.results import as_plain
from sgpo.evaluate.rewarding import compare_by_reward, reward_agreement, write_samples
from sgpo.policy.chat import note_chat
from sgpo.policy.generators import load_model, open_generator
from sgpo.policy.load import load_tokenizer
from sgpo.policy.locate import check_exists
from sgpo.policy.sampling import Generator, Sampling, prompt_seeds
from sgpo.policy.score import PairScores, score_pairs, score_responses
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotate import implicit_rewards
from sgpo.preferences.annotators.open import open_reward
from sgpo.preferences.source import load_pairs, pair_sources
from sgpo.serving.answers import Body
from sgpo.serving.cache import CachedPool
from sgpo.stats.certificate import certify_policy
from sgpo.stats.ranking import report_preferences
from sgpo.store.files import name_row, write_jsonl
from sgpo.store.hub import is_hub_id
from sgpo.store.progress import Reporter

# Files of answers in the folder of an evaluation, for the kinds whose answers another program judges.
ANSWER_FILES = {"alpaca": "model_outputs.json", "mt_bench": "model_answer/{name}.jsonl", "ifeval": "responses.jsonl"}


@dataclass(frozen=True)
class Subject:
    """The policy that is evaluated, and what it is evaluated with.

    Attributes:
        model: the policy; for `judge`, `reward` and `ifeval` its path may also be a file of answers.
        name: of the policy, in files of answers.
        reference: of its implicit reward and its KL; the baseline if the settings name none.
        max_length: tokens at which pairs are cut for scoring, as in training.
        space: gap space of the certificate.
        own_pairs: its self-annotated pairs; None: there are none.
        reference_logps: the reference's scores if they are known: (2, N) of the held-out pairs, then (2, M) of
            `own_pairs` if there are any; chosen, rejected, in nats.
    """

    model: ModelConfig
    name: str
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    reference: ModelConfig | None = None
    seed: int = 0
    beta: float = LeaderConfig().beta
    max_length: int = LeaderConfig().max_length
    space: Space = FollowerConfig().space
    own_pairs: Dataset | None = None
    reference_logps: Sequence[np.ndarray] | None = None


@dataclass(frozen=True)
class Job:
    """One evaluation of one policy, and what it writes in addition to its result; None writes nothing.

    Attributes:
        answers: file of the policy's answers; `alpaca` and `mt_bench` need it.
        samples: JSON Lines of a few answers with their rewards (`Sample`).
        verdicts: cache of the judge's answers; `judge` needs it.
        keep: folder in which answers of policies are kept and found again.
        log: output of servers and subprocesses.
        approve: called with all request bodies of a judge, and those without a cached answer, before any is sent; what
            it raises ends the evaluation.
    """

    settings: EvaluateConfig
    subject: Subject
    reporter: Reporter
    answers: Path | None = None
    samples: Path | None = None
    verdicts: Path | None = None
    keep: Path | None = None
    log: Path | None = None
    approve: Callable[[list[Body], list[Body]], None] | None = None

    def check(self) -> list[str]:
        """Checks inputs, models and the judge's servers before anything is generated; returns notes on the models."""
        settings, subject, notes = self.settings, self.subject, []
        check_inputs(settings, download=True)
        compared = [one for one in (subject.model, self.opponent if settings.prompts else None) if one is not None]
        models = [model for model in compared if not is_answer_file(model.path)]
        if subject.reference is not None and subject.model in models:
            models.append(subject.reference)
        for model in models:
            if subject.generation.backend == "transformers":
                policy = load_model(model, device="meta")
                notes += note_chat(policy) if settings.kind != "preferences" and model in compared else []
            else:
                load_tokenizer(model.path, trust_remote_code=model.trust_remote_code)
        # With verdicts on disk, a run may need no server.
        if settings.kind == "judge" and models and not self.verdicts.is_file():
            open_judge(settings)[1].check()
        return list(dict.fromkeys(notes))

    def answers_of(self, model: ModelConfig, name: str, prompts: Sequence[Messages], who: str) -> Answers:
        """The answers of a policy, generated or kept, or of the file at its path; some may be missing."""
        if is_answer_file(model.path):
            answers = read_answers_to(model.path, prompts, others=self.settings.kind != "ifeval")
        else:
            answers = self._generate(model, name, prompts, who)
        self.check_failed(missing(answers), f"answers of the {who}")
        return answers

    def check_failed(self, failures: Sequence[Failure | None], what: str) -> None:
        """Raises InputError if more items failed than the evaluation allows."""
        counts = Counter(failure for failure in failures if failure is not None)
        check_failed(counts, len(failures), self.settings.max_failed, what)

    def _generate(self, model: ModelConfig, name: str, prompts: Sequence[Messages], who: str) -> Answers:
        subject, kept = self.subject, None
        sampling = {key: getattr(self.settings, key) for key in ("temperature", "top_p", "max_new_tokens")}
        if self.keep is not None:
            conditions = {**sampling, "seed": subject.seed, "dtype": model.dtype, "backend": subject.generation.backend}
            kept = self.keep / f"answers-{answers_key(model.path, prompts, conditions)}.json"
        answers = kept_answers(kept, prompts, name)
        absent = [row for row, text in enumerate(answers.texts) if text is None]
        wanted = [row for row in absent if self.settings.retry_failed or answers.finish_reasons[row] is None]
        if wanted:
            bar = self.reporter.bar(f"answers of the {who}", len(wanted))
            with self.open_generator(model) as generator, bar as advance:
                seeds = prompt_seeds(subject.seed, len(prompts))
                answer_rows(generator, answers, wanted, prompts, seeds, Sampling(n=1, **sampling), advance)
            if kept is not None:
                write_answers_to(kept, prompts, answers)
        return answers

    def open_generator(self, model: ModelConfig) -> AbstractContextManager[Generator]:
        """The backend that answers; its servers may fail as often as the evaluation allows."""
        generation = self.subject.generation.model_copy(update={"max_failed": self.settings.max_failed})
        return open_generator(generation, model, log=self.log)

    @property
    def opponent(self) -> ModelConfig | None:
        """What the policy is compared with: the baseline, or the reference if none is named; `ifeval` needs neither."""
        if self.settings.baseline is not None:
            return self.subject.model.at(self.settings.baseline)
        if self.subject.reference is None and self.settings.kind != "ifeval":
            raise InputError("baseline is missing; allowed: a file of answers, or a policy.")
        return self.subject.reference

    def baseline(self, prompts: Sequence[Messages]) -> Answers | None:
        """The answers that the policy's are compared with."""
        opponent = self.opponent
        return None if opponent is None else self.answers_of(opponent, opponent.path, prompts, "baseline")

    def score(self, model: ModelConfig, sets: Sequence[Dataset], who: str) -> list[PairScores]:
        """The scores of sets of pairs under a model, which is in memory only here."""
        policy, scores = load_model(model), []
        with self.reporter.bar(f"scoring by the {who}", 2 * sum(map(len, sets))) as advance:
            for pairs, name in zip(sets, (self.settings.pairs, "the policy's pairs"), strict=False):
                with naming_rows(partial(name_row, name)):
                    scores.append(score_pairs(policy, pairs, max_length=self.subject.max_length, progress=advance))
        return scores

    def score_reference(self, sets: Sequence[Dataset]) -> list[np.ndarray]:
        """The reference's scores of sets of N pairs, (2, N) each: chosen, rejected, in nats."""
        if self.subject.reference is None:
            raise InputError("reference is missing; allowed: the model that the implicit reward refers to.")
        scores = self.score(self.subject.reference, sets, "reference")
        return [np.stack([one.chosen, one.rejected]) for one in scores]


def run_evaluation(job: Job) -> dict[str, Any]:
    """Runs one evaluation of a policy.

    The result is JSON: `kind`, the headline `value`, `low`, `high` (null if the kind has none) and `count`, then what
    the kind reports; rows per prompt come last (`duels`, `rewards`, `requests`).
    """
    kinds = {"alpaca": _alpaca, "mt_bench": _mt_bench, "judge": _judge, "reward": _reward}
    kinds |= {"ifeval": _ifeval, "preferences": _preferences}
    kind, path = job.settings.kind, job.subject.model.path
    if is_answer_file(path) and kind not in ("judge", "reward", "ifeval"):
        raise InputError(f"policy is {path!r}, a file of answers; allowed with {kind!r}: a folder or Hub id.")
    headline = {"kind": kind, "value": None, "low": None, "high": None, "count": 0}
    return as_plain({**headline, **kinds[kind](job)})


def check_inputs(settings: EvaluateConfig, *, download: bool = False) -> int:
    """Reads the inputs of an evaluation before any model runs, and counts answers or pairs.

    A reward model on the Hub is checked only with `download`.
    """
    count = 0
    if settings.instructions:
        count = len(read_instructions(settings.instructions, split=settings.split).instructions)
    if settings.questions:
        count = sum(len(question.turns) for question in read_questions(settings.questions))
    if settings.pairs:
        pairs = load_pairs(settings.pairs, split=settings.split)
        pair_sources(pairs, settings.source_column, settings.pairs)
        count = len(pairs)
    if settings.prompts:
        prompts = read_prompts(settings.prompts, split=settings.split)
        count = len(prompts)
        if settings.baseline and is_answer_file(settings.baseline):
            read_answers_to(settings.baseline, prompts, others=settings.kind != "ifeval")
        elif settings.baseline:
            check_exists(settings.baseline, "baseline")
    if settings.kind == "ifeval":
        read_requests(settings.prompts, split=settings.split)
    if settings.kind == "judge":
        open_judge(settings)
    if settings.kind == "reward" and (settings.function or download or not is_hub_id(settings.model)):
        options = {**settings.read_options.model_dump(), "device": "meta"}
        open_reward(settings.model, settings.function, settings.max_failed, **options)
    return count


def _alpaca(job: Job) -> dict[str, Any]:
    asked = read_instructions(job.settings.instructions, split=job.settings.split)
    prompts = [[{"role": "user", "content": instruction}] for instruction in asked.instructions]
    answers = job.answers_of(job.subject.model, job.subject.name, prompts, "policy")
    rows = [row for row, text in enumerate(answers.texts) if text is not None]
    texts, asked = [answers.texts[row] for row in rows], Instructions(*([one[row] for row in rows] for one in asked))
    write_model_outputs(job.answers, asked, texts, job.subject.name)
    characters = float(np.mean([len(text) for text in texts])) if texts else None
    counts = {"count": len(prompts), "answers": len(rows), "failed": by_reason(missing(answers))}
    return {**counts, "cut": answers.cut, "characters": characters}


def _mt_bench(job: Job) -> dict[str, Any]:
    subject, questions = job.subject, read_questions(job.settings.questions)
    count = sum(len(question.turns) for question in questions)
    with job.open_generator(subject.model) as generator, job.reporter.bar("turns", count) as advance:
        turns = answer_questions(
            generator, questions, max_new_tokens=job.settings.max_new_tokens, seed=subject.seed, progress=advance
        )
    texts = [[NO_ANSWER if one.failed else one.text for one in row] for row in turns]
    write_answers(job.answers, questions, texts, subject.name)
    responses = [one for row in turns for one in row]
    failures = [one.finish_reason if one.failed else None for one in responses]
    job.check_failed(failures, "turns")
    ids = [(one.question_id, turn + 1) for one, row in zip(questions, turns, strict=True) for turn in range(len(row))]
    cut, answers = sum(one.finish_reason == "length" for one in responses), failures.count(None)
    return {"count": len(questions), "answers": answers, "failed": by_reason(failures, ids), "cut": cut}


def _judge(job: Job) -> dict[str, Any]:
    settings = job.settings
    judge, servers = open_judge(settings)
    pool = CachedPool(servers, job.verdicts, retry_failed=settings.retry_failed)
    prompts, policy, baseline = _both_answers(job)
    duels = open_duels(judge, prompts, policy, baseline)
    # Now, before the judge is asked, and again with its verdicts.
    job.check_failed([duel.settled.failure for duel in duels], "comparisons")
    bodies = [body for duel in duels for body in duel.bodies]
    if job.approve is not None:
        job.approve(bodies, pool.missing(bodies))
    with job.reporter.bar("verdicts", len(bodies)) as advance:
        result = compare_by_judge(judge, pool, duels, progress=advance)
    job.check_failed([duel["failure"] for duel in result["duels"]], "comparisons")
    return {
        "value": result["win_rate"],
        "count": result["judged"],
        **describe_answers(policy, baseline),
        "judge": settings.model,
        "logprobs": settings.logprobs,
        **result,
    }


def _reward(job: Job) -> dict[str, Any]:
    settings, subject = job.settings, job.subject
    prompts, policy, baseline = _both_answers(job)
    kl = _estimate_kl(job, prompts, policy)
    options = settings.read_options.model_dump()
    annotator = open_reward(settings.model, settings.function, settings.max_failed, **options)
    with job.reporter.bar("rewards", len(prompts)) as advance:
        result = compare_by_reward(annotator, prompts, policy, baseline, progress=advance)
    agreement = None
    if subject.own_pairs is not None:
        with job.reporter.bar("rewards of the self-annotated pairs", len(subject.own_pairs)) as advance:
            agreement = reward_agreement(annotator, subject.own_pairs, progress=advance)
    if job.samples is not None:
        write_samples(job.samples, prompts, policy, baseline, result["rewards"])
    return {
        "value": result["win_rate"],
        "count": int(np.isfinite(result["rewards"]).all(axis=1).sum()),
        **describe_answers(policy, baseline),
        "by": settings.function or settings.model,
        "tokens": policy.tokens,
        "kl": kl,
        "agreement": agreement,
        **result,
    }


def _ifeval(job: Job) -> dict[str, Any]:
    requests = read_requests(job.settings.prompts, split=job.settings.split)
    prompts = [[{"role": "user", "content": request.prompt}] for request in requests]
    policy = job.answers_of(job.subject.model, job.subject.name, prompts, "policy")
    if job.answers is not None:
        # The layout that IFEval's own script reads, where no answer is an empty one, as it is here.
        rows = zip(requests, policy.texts, strict=True)
        write_jsonl(job.answers, [{"prompt": asked.prompt, "response": text or ""} for asked, text in rows])
    baseline = job.baseline(prompts)
    result = report_following(requests, policy.texts, baseline and baseline.texts)
    sides = [policy] if baseline is None else [policy, baseline]
    answers = {**describe_answers(*sides), "tokens": policy.tokens, "failed": by_reason(missing(*sides))}
    rate = result["by_level"]["prompts"]["strict"]
    return {"value": rate["rate"], **rate, **answers, **result}


def _preferences(job: Job) -> dict[str, Any]:
    settings, subject = job.settings, job.subject
    pairs = load_pairs(settings.pairs, split=settings.split)
    sources = pair_sources(pairs, settings.source_column, settings.pairs)
    sets = [pairs]
    if settings.certificate and subject.own_pairs is not None:
        sets.append(subject.own_pairs)
    reference = job.score_reference(sets) if subject.reference_logps is None else subject.reference_logps
    scores = job.score(subject.model, sets, "policy")
    gaps = [
        implicit_rewards(one.chosen, base[0], subject.beta) - implicit_rewards(one.rejected, base[1], subject.beta)
        for one, base in zip(scores, reference[: len(sets)], strict=True)
    ]
    differences = scores[0].chosen_tokens - scores[0].rejected_tokens
    report = report_preferences(gaps[0], sources=sources, length_differences=differences)
    accuracy, low, high, count = report.overall
    return {
        "value": accuracy,
        "low": low,
        "high": high,
        "count": count,
        "policy": subject.name,
        "reference": subject.reference.path if subject.reference else None,
        "preferences": report,
        "certificate": certify_policy(*gaps, space=subject.space) if len(gaps) == 2 else None,
    }


def _both_answers(job: Job) -> tuple[list[Messages], Answers, Answers]:
    """The prompts with the policy's answers and the baseline's."""
    subject, prompts = job.subject, read_prompts(job.settings.prompts, split=job.settings.split)
    policy = job.answers_of(subject.model, subject.name, prompts, "policy")
    if job.answers is not None:
        write_answers_to(job.answers, prompts, policy)
    baseline = job.baseline(prompts)
    # Each side may be within the limit, and both together not.
    job.check_failed(missing(policy, baseline), "comparisons")
    return prompts, policy, baseline


def _estimate_kl(job: Job, prompts: Sequence[Messages], answers: Answers) -> float | None:
    """Mean of `log pi(y|x) - log pi_ref(y|x)` over the policy's own answers, in nats per answer.

    It is an unbiased estimate of KL(pi || pi_ref) if the answers are sampled at temperature 1 and top_p 1, and end
    before the token limit. None without a reference or any answer, or if the answers come from a file.
    """
    subject = job.subject
    if subject.reference is None or is_answer_file(subject.model.path):
        return None
    logps, limit = [], None
    rows = [row for row, text in enumerate(answers.texts) if text is not None]
    if not rows:
        return None
    prompts, texts = [prompts[row] for row in rows], [answers.texts[row] for row in rows]
    for who, model in (("policy", subject.model), ("reference", subject.reference)):
        policy = load_model(model)
        # The closing tokens of an answer at the token limit may exceed the context.
        limit = limit or policy.context
        with job.reporter.bar(f"scoring by the {who}", len(prompts)) as advance:
            scores = score_responses(policy, prompts, texts, max_length=limit, progress=advance)
        logps.append(scores.logps)
        del policy
    return float((logps[0] - logps[1]).mean())
