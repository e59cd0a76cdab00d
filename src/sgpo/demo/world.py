"""The embedded world as files: an SFT model, preference pairs, prompts, and a reward function that knows the truth."""

from pathlib import Path
from typing import NamedTuple

from sgpo.config import WorldConfig
from sgpo.demo.sft import Progress, train_small_sft
from sgpo.demo.shop import ShopWorld
from sgpo.store.files import write_atomically, write_jsonl

_REWARD = '''"""The reward of this world, in nats: higher is better."""

from sgpo.demo.shop import ShopWorld

reward = ShopWorld(facts={facts!r}, scale={scale!r}).rewards
'''


class WorldFiles(NamedTuple):
    """Paths of a world's files: the SFT model's folder, JSON Lines of labelled pairs (seeds, held-out) and of prompts
    (the rounds' pool, the test set), and the Python file with the function `reward(prompts, responses)`."""

    sft: Path
    seeds: Path
    heldout: Path
    prompts: Path
    test: Path
    reward: Path

    @classmethod
    def of(cls, directory: str | Path) -> "WorldFiles":
        """The files of the world in a directory."""
        names = ("sft", "seeds.jsonl", "heldout.jsonl", "prompts.jsonl", "test.jsonl", "reward.py")
        return cls(*(Path(directory) / name for name in names))


def prepare_world(
    settings: WorldConfig, directory: str | Path, *, seed: int, progress: Progress | None = None
) -> WorldFiles:
    """Writes a world into a new or an empty folder: draws its data and trains its SFT model, from one seed."""
    files = WorldFiles.of(directory)
    world = ShopWorld(**settings.model_dump(include={"facts", "scale", "flip_rate", "distractor"}))
    write_jsonl(files.seeds, map(_as_pair, world.labelled_pairs(settings.seed_pairs, seed, "seeds")))
    write_jsonl(files.heldout, map(_as_pair, world.labelled_pairs(settings.heldout_pairs, seed, "test")))
    write_jsonl(files.prompts, map(_as_prompt, world.prompts(settings.pool_prompts, seed, "pool")))
    write_jsonl(files.test, map(_as_prompt, world.prompts(settings.test_prompts, seed, "test")))
    write_atomically(files.reward, _REWARD.format(facts=settings.facts, scale=settings.scale))
    train_small_sft(
        world.sft_rows(settings.sft_examples, seed),
        files.sft,
        learning_rate=settings.sft_learning_rate,
        batch_size=settings.sft_batch_size,
        seed=seed,
        progress=progress,
        **settings.model_dump(include={"layers", "hidden", "heads", "max_length"}),
    )
    return files


def _as_prompt(text: str) -> dict[str, list[dict[str, str]]]:
    return {"prompt": [{"role": "user", "content": text}]}


def _as_pair(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    sides = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {**_as_prompt(row["prompt"]), **sides}
