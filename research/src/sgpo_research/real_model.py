"""Methods with a real language model in the world of checkable requests: the real loop, and gold at every step."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgpo.config import RunConfig
from sgpo.evaluate import ifeval
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.load import Policy, load_policy
from sgpo.policy.sampling import Sampling, derive_seed
from sgpo.policy.score import score_responses
from sgpo.rounds.loop import run_recipe
from sgpo.store.files import read_objects, write_jsonl
from sgpo.store.processes import Processes
from sgpo.store.progress import Reporter
from sgpo.store.records import Shipped
from sgpo_research.real_model_table import Place
from sgpo_research.runs import OF_ROUND_0, adopt, changed_recipe

_DPO = {"follower.radius": 0, "leader.final_epochs": 0}
_CDPO = {
    "leader.trainer.confidence_smoothing": 0.1, "leader.trainer.confidence_quantile": 1,
    "leader.trainer.confidence_warmup": 0,
}  # fmt: skip
# All choose the round to ship by the same validation pairs. The rounds of SSAPO are those of the paper's settings; the
# last DPO on human pairs is ours, and "DPO twice" is that without rounds.
METHODS: dict[str, dict[str, Any]] = {
    "SSAPO": {"follower.radius": 0.01},
    "SSAPO, per token": {"follower.radius": 0.01, "annotation.per_token": True, "leader.final_epochs": 0},
    "SSAPO, heads": {"follower.radius": 0.01, "annotation.annotator": "heads", "leader.final_epochs": 0},
    "iterative DPO": _DPO,
    "DPO twice": {"rounds": 0, "follower.radius": 0, "data.prompts_per_round": None},
    "cDPO": {**_DPO, **_CDPO},
    "SPA": {**_DPO, "reference": "previous", "leader.trainer.confidence_smoothing": 0.1},
}
# What runs share that start from the same round 0, and do not differ before the first training of a round.
_WRITTEN = ("round-1/responses", "round-1/scores")
_OF_ROUND_1 = (*_WRITTEN, "round-1/pairs")
_SAMPLING = Sampling(n=4, temperature=0.9, top_p=0.95, max_new_tokens=96)
_COMMAND = ["sgpo-study", "real-model"]


@dataclass(frozen=True)
class Setting:
    """One model in one world.

    Attributes:
        model: folder of the SFT model.
        world: what `sgpo-study requests` has written: folders LABELS-SEED.
        output: parent of the runs and of what is evaluated.
        recipe: what all methods share.
    """

    model: str
    world: Path
    output: Path
    recipe: Mapping[str, Any]

    @property
    def dtype(self) -> str:
        """Of the model."""
        return self.recipe.get("model", {}).get("dtype", "float32")

    @property
    def batch_size(self) -> int:
        """Responses written at once when a policy is evaluated."""
        return self.recipe.get("generation", {}).get("batch_size", 32)

    def data(self, labels: str, seed: int) -> Path:
        """The folder of an annotator's seeds."""
        return self.world / f"{labels}-{seed}"

    def recipe_of(self, labels: str, seed: int, method: str) -> RunConfig:
        """The recipe of a run; its directory is LABELS-SEED/METHOD."""
        data = self.data(labels, seed)
        own = {
            "seed": seed,
            "output": str(self.output / f"{labels}-{seed}" / method.replace(",", "").replace(" ", "-")),
            "model.path": self.model,
            "data.seeds": str(data / "seeds.jsonl"),
            "data.prompts": str(data / "prompts.jsonl"),
            "data.heldout": str(data / "heldout.jsonl"),
            "evaluate": [],
        }
        return changed_recipe(self.recipe, own, METHODS[method], name=f"{method}, {labels}, seed {seed}")


def run_methods(
    setting: Setting, labels: str, seed: int, methods: Sequence[str], reporter: Reporter | None = None
) -> None:
    """Runs methods on an annotator's seeds and evaluates every policy on the test prompts; resumes after a stop.

    Methods that train alike in round 0 share it; the follower's answer is the first in which they differ, so they share
    the responses and scores of round 1, too.
    """
    reporter = reporter or Reporter()
    made: dict[str, RunConfig] = {}
    evaluate_policy(setting, setting.model, setting.output / "sft", labels, seed)
    for method in methods:
        recipe = setting.recipe_of(labels, seed, method)
        key = json.dumps(recipe.leader.trainer, sort_keys=True)
        if not Path(recipe.output).exists() and key in made:
            source, shared = made[key], ()
            if recipe.reference == source.reference and recipe.rounds and source.rounds:
                shared = _OF_ROUND_1 if recipe.annotation == source.annotation else _WRITTEN
            adopt(recipe, Path(source.output), ("heldout/pairs", *OF_ROUND_0, *shared), _COMMAND)
        run_recipe(recipe, command=_COMMAND, processes=Processes(), reporter=reporter)
        made.setdefault(key, recipe)
        for folder in policies(recipe):
            evaluate_policy(setting, f"{recipe.output}/{folder}/policy", Path(recipe.output) / folder, labels, seed)


def run_logged(setting: Setting, labels: str, seed: int, methods: Sequence[str]) -> None:
    """`run_methods`, whose progress and warnings go to LABELS-SEED.log in the output folder."""
    from rich.console import Console

    setting.output.mkdir(parents=True, exist_ok=True)
    with open(setting.output / f"{labels}-{seed}.log", "a", encoding="utf-8") as log:
        run_methods(setting, labels, seed, methods, Reporter(Console(file=log, width=120)))


def policies(recipe: RunConfig) -> list[str]:
    """The folders of a run's policies, in the order in which they were made; no last one where no round is shipped."""
    folders = [f"round-{number}" for number in range(recipe.rounds + 1)] + ["final"]
    return [folder for folder in folders if (Path(recipe.output) / folder / "policy").exists()]


def shipped(recipe: RunConfig) -> str | None:
    """The folder of the policy that a finished run ships; None: the SFT model."""
    path = Path(recipe.output) / "shipped.json"
    number = Shipped.read(path).round if path.exists() else recipe.rounds
    if number is None:
        return None
    return "final" if recipe.final_epochs else f"round-{number}"


def evaluate_policy(setting: Setting, path: str, folder: Path, labels: str, seed: int) -> None:
    """Writes gold.jsonl in `folder`, unless it is there: four responses to each test prompt, and what they follow.

    Its columns: part (seen, unseen), key, number, response, finish_reason, n_tokens, gold (share of constraints that
    hold) and, for the first response to a prompt, log_ratio: its log-probability less the SFT model's, in nats.
    """
    output = folder / "gold.jsonl"
    if output.exists():
        return
    rows = [
        (part, row) for part in ("seen", "unseen")
        for _, row in read_objects(setting.data(labels, seed) / f"test_{part}.jsonl")
    ]  # fmt: skip
    prompts = [[{"role": "user", "content": row["prompt"]}] for _, row in rows]
    policy = load_policy(path, dtype=setting.dtype)
    generator = TransformersGenerator(policy, batch_size=setting.batch_size)
    found = generator.generate(prompts, [derive_seed(row["key"], 1) for _, row in rows], _SAMPLING)
    firsts = [responses[0].text for responses in found]
    ratios = np.zeros(len(rows))
    if path != setting.model:
        ratios = _logps(policy, prompts, firsts) - _logps(
            load_policy(setting.model, dtype=setting.dtype), prompts, firsts
        )
    write_jsonl(output, [
        {
            "part": part, "key": row["key"], "number": number, "response": response.text,
            "finish_reason": response.finish_reason, "n_tokens": response.n_tokens,
            "gold": _gold(row, response.text),
            "log_ratio": float(ratio) if number == 0 else None,
        }
        for (part, row), responses, ratio in zip(rows, found, ratios, strict=True)
        for number, response in enumerate(responses)
    ])  # fmt: skip


def _gold(row: Mapping[str, Any], response: str) -> float:
    request = ifeval.Request(row["key"], row["prompt"], row["instruction_id_list"], row["kwargs"])
    return ifeval.score_responses([request], [response])[0].share


def _logps(policy: Policy, prompts: list[list[dict[str, str]]], responses: list[str]) -> np.ndarray:
    return score_responses(policy, prompts, responses).logps


def gold_by_prompt(path: Path) -> dict[str, np.ndarray]:
    """Mean gold of each test prompt, by part, from the gold.jsonl of a policy."""
    held: dict[str, dict[int, list[float]]] = {}
    for _, row in read_objects(path):
        held.setdefault(row["part"], {}).setdefault(row["key"], []).append(row["gold"])
    return {part: np.array([np.mean(values) for values in prompts.values()]) for part, prompts in held.items()}


def divergence(path: Path) -> float:
    """Mean log-ratio of a policy's own responses to the SFT model's, in nats: its KL divergence, estimated."""
    ratios = [row["log_ratio"] for _, row in read_objects(path) if row["log_ratio"] is not None]
    return float(np.mean(ratios))


def results(setting: Setting) -> tuple[list[dict[str, Any]], dict[Place, dict[str, np.ndarray]]]:
    """What has been evaluated in the output folder.

    Returns: rows of labels, seed, method, policy, shipped, kl (nats), gold, seen and unseen; and the gold of each
        prompt by part, of each of these policies and of what a finished run ships, which may be the SFT model.
    """
    rows, golds = [], {}
    for folder in sorted(path for path in setting.output.iterdir() if (setting.world / path.name).is_dir()):
        labels, _, number = folder.name.rpartition("-")
        for method in METHODS:
            recipe = setting.recipe_of(labels, int(number), method)
            run = Path(recipe.output)
            places = [run / name for name in policies(recipe) if (run / name / "gold.jsonl").exists()]
            for place in [setting.output / "sft", *places] if places else ():
                gold = gold_by_prompt(place / "gold.jsonl")
                golds[labels, int(number), method, place.name] = gold
                if (run / "shipped.json").exists() and place.name == (shipped(recipe) or "sft"):
                    golds[labels, int(number), method, "shipped"] = gold
                rows.append({
                    "labels": labels, "seed": int(number), "method": method, "policy": place.name,
                    "shipped": place.name == (shipped(recipe) or "sft"), "kl": divergence(place / "gold.jsonl"),
                    "gold": float(np.concatenate(list(gold.values())).mean()),
                    **{part: float(values.mean()) for part, values in gold.items()},
                })  # fmt: skip
    return rows, golds
