"""The embedded world on disk: its SFT model, seed pairs and prompts; and the judge who knows its gold reward."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgpo.config.world import WorldSettings
from sgpo.demo.sft import train_small_sft
from sgpo.demo.shop import ShopWorld
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.load import Policy, load_policy
from sgpo.policy.sampling import Response, Sampling, prompt_seeds
from sgpo.policy.score import score_responses
from sgpo.rounds.loop import Evaluation, RoundResult
from sgpo.stats.win_rate import compare_rewards, win_rate

MAX_NEW_TOKENS = 64
SAMPLES = 8


@dataclass(frozen=True)
class PreparedWorld:
    """Where the parts of a prepared world lie.

    Attributes:
        sft: folder of the SFT model.
        seeds: JSONL of seed pairs: prompt, chosen, rejected.
        prompts: JSONL of pool prompts.
        baseline: JSONL of test prompts and the SFT model's responses to each.
    """

    sft: Path
    seeds: Path
    prompts: Path
    baseline: Path


def world_paths(directory: str | Path) -> PreparedWorld:
    """The parts of a world that `prepare_world` writes to a directory."""
    root = Path(directory)
    return PreparedWorld(root / "sft", root / "seeds.jsonl", root / "prompts.jsonl", root / "baseline.jsonl")


def prepare_world(
    settings: WorldSettings,
    directory: str | Path,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedWorld:
    """Draws a world's data, trains its SFT model and samples the responses that policies are judged against.

    Args:
        settings: the world.
        directory: an existing, empty folder; the caller makes it whole or absent.
        seed: seed of everything that is drawn.
        progress: called after each step of SFT with the steps done and the steps in all.

    Raises:
        InputError: a setting is out of range.
    """
    paths = world_paths(directory)
    world = ShopWorld(facts=settings.facts, flip_rate=settings.flip_rate)
    _write_rows(paths.seeds, [_as_pair(row) for row in world.seed_pairs(settings.seed_pairs, seed)])
    _write_rows(
        paths.prompts, [{"prompt": as_messages(text)} for text in world.prompts(settings.pool_prompts, seed, "pool")]
    )
    train_small_sft(
        world.sft_rows(settings.sft_examples, seed),
        paths.sft,
        learning_rate=settings.sft_learning_rate,
        batch_size=settings.sft_batch_size,
        layers=settings.layers,
        hidden=settings.hidden,
        heads=settings.heads,
        max_length=settings.max_length,
        seed=seed,
        progress=progress,
    )
    tests = world.prompts(settings.test_prompts, seed, "test")
    responses = _answer(load_policy(str(paths.sft)), tests, settings.test_responses, seed=seed)
    _write_rows(
        paths.baseline,
        [
            {"prompt": text, "responses": [response.text for response in row]}
            for text, row in zip(tests, responses, strict=True)
        ],
    )
    return paths


class GoldJudge:
    """Judges the policy of a round by the gold reward: an evaluator for `run_rounds`.

    Args:
        settings: the world.
        directory: where `prepare_world` wrote it.
        seed: seed of the policy's sampled responses.
    """

    def __init__(self, settings: WorldSettings, directory: str | Path, *, seed: int) -> None:
        self._world = ShopWorld(facts=settings.facts, flip_rate=settings.flip_rate)
        self._seed = seed
        paths = world_paths(directory)
        rows = [json.loads(line) for line in paths.baseline.read_text(encoding="utf-8").splitlines()]
        self._prompts = [row["prompt"] for row in rows]
        self._baseline = [row["responses"] for row in rows]
        self._baseline_rewards = self._rewards(self._baseline)
        self._sft = str(paths.sft)

    def __call__(self, result: RoundResult) -> Evaluation:
        """Gold metrics of a round's policy, sampled at temperature 1 on the test prompts.

        Returns: `gold` with
            win_rate, low, high, prompts: against the SFT model's responses, ties counted half, with the 95% interval
                over prompts;
            reward, baseline_reward: mean gold reward of the policy's and of the SFT model's responses, in nats;
            attributes: mean of each attribute over the policy's responses;
            kl: mean of `log pi(y|x) - log pi_ref(y|x)` over the policy's own responses, an unbiased estimate of
                KL(pi || pi_ref) in nats per response where responses end by themselves;
            response_tokens: mean length;
            agreement (where there are any): share of the self-annotated pairs whose order gold shares, ties counted
                half.
        """
        answers = _answer(result.policy, self._prompts, len(self._baseline[0]), seed=self._seed + 1)
        texts = [[response.text for response in row] for row in answers]
        rewards = self._rewards(texts)
        rate = win_rate(compare_rewards(rewards, self._baseline_rewards))
        gold = {
            **rate._asdict(),
            "reward": float(rewards.mean()),
            "baseline_reward": float(self._baseline_rewards.mean()),
            "attributes": self._mean_attributes(texts),
            "kl": self._kl(result.policy, texts),
            "response_tokens": float(np.mean([response.n_tokens for row in answers for response in row])),
        }
        if "self" in result.pairs["source"][:]:
            gold["agreement"] = self._agreement(result)
        samples = [
            {
                "prompt": self._prompts[row],
                "response": texts[row][0],
                "baseline": self._baseline[row][0],
                "reward": float(rewards[row, 0]),
                "baseline_reward": float(self._baseline_rewards[row, 0]),
            }
            for row in range(min(SAMPLES, len(texts)))
        ]
        return Evaluation({"gold": gold}, samples)

    def _rewards(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        return np.array(
            [
                [self._world.gold_reward(prompt, text) for text in row]
                for prompt, row in zip(self._prompts, texts, strict=True)
            ]
        )

    def _mean_attributes(self, texts: Sequence[Sequence[str]]) -> dict[str, float]:
        found = [
            self._world.attributes(prompt, text)
            for prompt, row in zip(self._prompts, texts, strict=True)
            for text in row
        ]
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    def _kl(self, policy: Policy, texts: Sequence[Sequence[str]]) -> float:
        prompts = [as_messages(prompt) for prompt, row in zip(self._prompts, texts, strict=True) for _ in row]
        flat = [text for row in texts for text in row]
        # Loaded when it is needed: a second model would lie beside the leader's through all of its training.
        ours, theirs = (score_responses(model, prompts, flat).logps for model in (policy, load_policy(self._sft)))
        return float((ours - theirs).mean())

    def _agreement(self, result: RoundResult) -> float:
        rewards = np.array(
            [
                [
                    self._world.gold_reward(row["prompt"][-1]["content"], row[side][0]["content"])
                    for side in ("chosen", "rejected")
                ]
                for row in result.pairs
                if row["source"] == "self"
            ]
        )
        return float(compare_rewards(rewards[:, 0], rewards[:, 1]).mean())


def as_messages(text: str) -> list[dict[str, str]]:
    """A request as a conversation of one user turn."""
    return [{"role": "user", "content": text}]


def _as_pair(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    sides = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {"prompt": as_messages(row["prompt"]), **sides}


def _answer(policy: Policy, prompts: Sequence[str], n: int, *, seed: int) -> list[list[Response]]:
    sampling = Sampling(n, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS)
    asked = [as_messages(text) for text in prompts]
    return TransformersGenerator(policy, batch_size=256).generate(asked, prompt_seeds(seed, len(asked)), sampling)


def _write_rows(path: Path, rows: Sequence[dict]) -> None:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
