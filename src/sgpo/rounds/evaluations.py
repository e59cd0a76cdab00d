"""What a recipe's `evaluate` measures of each round's policy: stages with results of their own."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_from_disk

from sgpo.config import EvaluateConfig, Recipe
from sgpo.evaluate.alpaca import read_instructions, write_model_outputs
from sgpo.evaluate.held_out import PairScores, implicit_gaps, pair_sources, report_held_out, score_pairs
from sgpo.evaluate.mt_bench import read_questions, write_answers
from sgpo.evaluate.plain import as_plain
from sgpo.evaluate.prompt_files import NamedAnswers, is_answer_file, read_answers_to, read_prompts, write_answers_to
from sgpo.evaluate.responding import Responses, answer_prompts, answer_questions
from sgpo.evaluate.rewarding import compare_by_reward
from sgpo.leader.scores import REFERENCE_COLUMNS
from sgpo.policy.generators import open_generator
from sgpo.policy.load import Policy, load_policy
from sgpo.policy.sampling import Generator, Sampling
from sgpo.policy.tokens import Messages
from sgpo.preferences.source import load_pairs
from sgpo.rounds.context import Run
from sgpo.rounds.evaluation_parts import check_evaluations, naming, open_judge, open_reward
from sgpo.rounds.policies import Policies
from sgpo.store.stages import Stages

__all__ = ["check_evaluations", "evaluate_round", "headlines"]

RESULT = "result.json"


def evaluate_round(run: Run, number: int) -> None:
    """Evaluates the policy of a round, as far as its results are not on disk."""
    Evaluations(run.config, run.stages, run.policies).run(number)


def headlines(run: Run, number: int) -> dict[str, dict[str, Any]]:
    """What a round's metrics hold of its evaluations."""
    return Evaluations(run.config, run.stages, run.policies).headlines(number)


class Evaluations:
    """The evaluations of a run, each a stage of every round; the main process does them while the others wait."""

    def __init__(self, config: Recipe, stages: Stages, policies: Policies) -> None:
        self._config, self._stages, self._policies = config, stages, policies
        self._root = stages.run.root

    def run(self, number: int) -> None:
        """Evaluates the policy of a round, as far as its results are not on disk.

        Raises:
            InputError: the evaluation and what went wrong.
        """
        for settings in self._config.evaluate:
            self._prepare(settings)
            work = {
                "alpaca": self._alpaca,
                "mt_bench": self._mt_bench,
                "judge": self._judge,
                "reward": self._reward,
                "preferences": self._preferences,
            }[settings.kind]

            def write(path: Path, settings=settings, work=work) -> None:
                path.mkdir()
                with naming(settings):
                    result = {"kind": settings.kind, **work(settings, number, path)}
                text = json.dumps(as_plain(result), indent=2, allow_nan=False)
                (path / RESULT).write_text(text + "\n", encoding="utf-8")

            self._stages.alone(f"{self._policies.folder(number)}/evaluations/{settings.title}", write)

    def headlines(self, number: int) -> dict[str, dict[str, Any]]:
        """What goes into a round's metrics: per evaluation its kind, and value, low, high, count where it has them."""
        found = {}
        for settings in self._config.evaluate:
            path = self._root / f"{self._policies.folder(number)}/evaluations/{settings.title}/{RESULT}"
            result = json.loads(path.read_text(encoding="utf-8"))
            found[settings.title] = {key: result[key] for key in ("kind", "value", "low", "high", "count")}
        return found

    def _folder(self, settings: EvaluateConfig) -> str:
        return f"evaluations/{settings.title}"

    def _prepare(self, settings: EvaluateConfig) -> None:
        """What all rounds share: the baseline's answers, the reference's scores."""
        folder = self._folder(settings)
        if settings.prompts and not (settings.baseline and is_answer_file(settings.baseline)):
            self._stages.alone(f"{folder}/baseline.json", lambda path: self._write_baseline(settings, path))
        if settings.pairs:
            self._stages.alone(f"{folder}/reference.npy", lambda path: self._write_reference(settings, path))

    def _write_baseline(self, settings: EvaluateConfig, path: Path) -> None:
        model, name = self._config.model, settings.baseline or self._config.model.path

        def load() -> Policy:
            if settings.baseline is None:
                return self._policies.reference()
            return load_policy(name, dtype=model.dtype, trust_remote_code=model.trust_remote_code)

        with naming(settings):
            prompts = read_prompts(settings.prompts)
            texts = self._answers(settings, prompts, name, load).texts
            write_answers_to(path, prompts, NamedAnswers(texts, settings.baseline or "the SFT model"))

    def _write_reference(self, settings: EvaluateConfig, path: Path) -> None:
        with naming(settings):
            scores = self._score(self._policies.reference(), load_pairs(settings.pairs), "reference")
        with path.open("wb") as file:
            np.save(file, np.stack([scores.chosen, scores.rejected]), allow_pickle=False)

    def _alpaca(self, settings: EvaluateConfig, number: int, path: Path) -> dict[str, Any]:
        asked = read_instructions(settings.instructions)
        prompts = [[{"role": "user", "content": instruction}] for instruction in asked.instructions]
        written = self._own_answers(settings, prompts, number)
        write_model_outputs(path / "model_outputs.json", asked, written.texts, self._name(number))
        characters = float(np.mean([len(text) for text in written.texts]))
        return {**_headline(count=len(prompts)), "cut": written.cut, "characters": characters}

    def _mt_bench(self, settings: EvaluateConfig, number: int, path: Path) -> dict[str, Any]:
        questions = read_questions(settings.questions)
        count = sum(len(question.turns) for question in questions)
        limits = {"max_new_tokens": settings.max_new_tokens, "seed": self._seed(settings)}
        with self._generator(number) as generator, self._stages.reporter.bar("turns", count) as advance:
            written = answer_questions(generator, questions, **limits, progress=advance)
        name = self._name(number)
        write_answers(path / "model_answer" / f"{name}.jsonl", questions, written.turns, name)
        return {**_headline(count=len(questions)), "cut": written.cut}

    def _judge(self, settings: EvaluateConfig, number: int, path: Path) -> dict[str, Any]:
        prompts, written, baseline = self._contestants(settings, number, path)
        judge, pool = open_judge(settings, self._root / self._folder(settings) / "verdicts.jsonl")
        bodies = judge.requests(prompts, written.texts, baseline.texts)
        with self._stages.reporter.bar("verdicts", len(bodies)) as advance:
            result = judge.compare(pool, prompts, written.texts, baseline.texts, progress=advance)
        head = _headline(result.win_rate, result.low, result.high, result.judged)
        return {**head, "baseline": baseline.name, "cut": written.cut, **result._asdict()}

    def _reward(self, settings: EvaluateConfig, number: int, path: Path) -> dict[str, Any]:
        prompts, written, baseline = self._contestants(settings, number, path)
        annotator = open_reward(settings)
        with self._stages.reporter.bar("rewards", len(prompts)) as advance:
            result = compare_by_reward(annotator, prompts, written.texts, baseline.texts, progress=advance)
        head = _headline(result.win_rate, result.low, result.high, result.prompts - result.unrewarded)
        return {
            **head,
            "baseline": baseline.name,
            "cut": written.cut,
            **result._asdict(),
            "rewards": result.rewards.tolist(),
        }

    def _preferences(self, settings: EvaluateConfig, number: int, path: Path) -> dict[str, Any]:
        policy, pairs = self._policies.of_round(number), load_pairs(settings.pairs)
        stored = np.load(self._root / self._folder(settings) / "reference.npy", allow_pickle=False)
        scores, beta = self._score(policy, pairs, "policy"), self._config.leader.beta
        gaps = implicit_gaps(scores, PairScores(*stored, scores.chosen_tokens, scores.rejected_tokens), beta)
        own_gaps = None
        # DPO on human pairs, the first and the last, has annotated nothing itself.
        if settings.certificate and 0 < number < self._policies.final:
            own = load_from_disk(self._root / f"round-{number}/pairs")
            own = own.select([row for row, source in enumerate(own["source"]) if source == "self"])
            after = self._score(policy, own, "policy")
            reference = (np.array(own[column]) for column in REFERENCE_COLUMNS)
            own_gaps = implicit_gaps(after, PairScores(*reference, after.chosen_tokens, after.rejected_tokens), beta)
        sources = pair_sources(pairs, None, settings.pairs)
        report = report_held_out(gaps, scores, sources=sources, own_gaps=own_gaps, space=self._config.follower.space)
        overall = report.preferences.overall
        return {**_headline(overall.accuracy, overall.low, overall.high, overall.pairs), **report._asdict()}

    def _contestants(
        self, settings: EvaluateConfig, number: int, path: Path
    ) -> tuple[list[Messages], Responses, NamedAnswers]:
        prompts = read_prompts(settings.prompts)
        file = settings.baseline
        if not (file and is_answer_file(file)):
            file = self._root / self._folder(settings) / "baseline.json"
        baseline = read_answers_to(file, prompts)
        written = self._own_answers(settings, prompts, number)
        write_answers_to(path / "answers.json", prompts, NamedAnswers(written.texts, self._name(number)))
        return prompts, written, baseline

    def _own_answers(self, settings: EvaluateConfig, prompts: Sequence[Messages], number: int) -> Responses:
        return self._answers(settings, prompts, self._policies.path(number), lambda: self._policies.of_round(number))

    def _answers(
        self, settings: EvaluateConfig, prompts: Sequence[Messages], path: str | Path, load: Callable[[], Policy]
    ) -> Responses:
        sampling = Sampling(n=1, temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
        with (
            open_generator(self._config, path, load, _Alone(), self._log()) as generator,
            self._stages.reporter.bar("answers", len(prompts)) as advance,
        ):
            return answer_prompts(generator, prompts, sampling, seed=self._seed(settings), progress=advance)

    @contextmanager
    def _generator(self, number: int) -> Iterator[Generator]:
        path, load = self._policies.path(number), lambda: self._policies.of_round(number)
        with open_generator(self._config, path, load, _Alone(), self._log()) as generator:
            yield generator

    def _log(self) -> Path:
        return self._root / "evaluations.log"

    def _score(self, policy: Policy, pairs: Any, who: str) -> PairScores:
        max_length = self._config.leader.max_length
        with self._stages.reporter.bar(f"scoring by the {who}", 2 * len(pairs)) as advance:
            return score_pairs(policy, pairs, max_length=max_length, progress=advance)

    def _seed(self, settings: EvaluateConfig) -> int:
        # One for all rounds: with the same numbers, rounds differ by their policies alone.
        return self._stages.seed(self._folder(settings))

    def _name(self, number: int) -> str:
        return f"{self._root.resolve().name}-{self._policies.folder(number)}"


class _Alone:
    """The processes that take part in a stage of the main process: itself."""

    is_main, rank, count = True, 0, 1

    def wait(self) -> None:
        """Returns at once."""


def _headline(
    value: float | None = None, low: float | None = None, high: float | None = None, count: int = 0
) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "count": count}
