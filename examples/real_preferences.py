"""Prepares a run on real preferences: a small SFT model from scratch, seeds, prompts, held-out pairs and a recipe.

    python examples/real_preferences.py --data FOLDER --output runs/real
    sgpo run --config runs/real/recipe.yaml

FOLDER has `responses.jsonl.gz` (prompt, response) to train the SFT model on and `pairs.jsonl.gz` (UltraFeedback's
layout) for seeds and held-out pairs. Prompts are split first: nothing is trained on a held-out prompt.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())

import yaml
from datasets import Dataset, disable_progress_bars
from transformers.utils import logging

from sgpo.demo.sft import train_small_sft
from sgpo.errors import InputError
from sgpo.preferences.source import load_pairs, load_rows
from sgpo.preferences.split import hold_out
from sgpo.preferences.split_files import check_new_folder


def prepare(
    data: Path, output: Path, *, longest_prompt: int, longest_response: int, rounds: int, epochs: float, hidden: int
) -> Path:
    """Writes the SFT model, the split data and the recipe into a folder; returns the recipe's path.

    Args:
        data: folder with responses.jsonl.gz and pairs.jsonl.gz.
        output: new or empty folder.
        longest_prompt, longest_response: rows with more characters are dropped, since the model is small.
        rounds: rounds of the recipe; they share the prompts that are not held out.
        epochs, hidden: epochs of the SFT, width of the model.
    """

    def short(row: dict) -> bool:
        return len(row["prompt"][-1]["content"]) <= longest_prompt and all(
            len(row[side][0]["content"]) <= longest_response for side in ("chosen", "rejected")
        )

    check_new_folder(output)
    pairs = load_pairs(data / "pairs.jsonl.gz").filter(short)
    train, held_out = hold_out(pairs, share=0.3, seed=0)
    unseen = {prompt[-1]["content"] for prompt in held_out["prompt"]}
    responses = [
        row
        for row in load_rows(data / "responses.jsonl.gz").select_columns(["prompt", "response"])
        if row["prompt"] not in unseen
        and len(row["prompt"]) <= longest_prompt
        and 0 < len(row["response"].strip()) <= longest_response
    ]
    output.mkdir(parents=True, exist_ok=True)
    prompts = list(dict.fromkeys(row["prompt"] for row in responses))
    _write(train, output / "seeds.jsonl")
    _write(held_out, output / "heldout.jsonl")
    _write(Dataset.from_list([{"prompt": prompt} for prompt in prompts]), output / "prompts.jsonl")
    print(
        f"{len(responses)} responses, {len(train)} seed pairs, {len(prompts)} prompts, {len(held_out)} held-out pairs"
    )
    train_small_sft(
        responses,
        output / "sft",
        vocab_size=2048,
        layers=4,
        hidden=hidden,
        epochs=epochs,
        learning_rate=2e-3,
        max_length=512,
        progress=lambda done, total: print(
            f"\rSFT step {done} of {total}", end="" if done < total else "\n", flush=True
        ),
    )
    recipe = {
        "output": str(output / "run"),
        "rounds": rounds,
        "model": {"path": str(output / "sft")},
        "data": {
            "seeds": str(output / "seeds.jsonl"),
            "prompts": str(output / "prompts.jsonl"),
            "heldout": str(output / "heldout.jsonl"),
        },
        "generation": {"candidates": 4, "max_new_tokens": 200, "batch_size": 64},
        "follower": {"radius": 0.01, "space": "probability", "tangents": 6},
        "leader": {
            "learning_rate": 5.0e-5,
            "seed_epochs": 1,
            "batch_size": 32,
            "micro_batch_size": 8,
            "max_length": 511,
        },
    }
    path = output / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def _write(rows: Dataset, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with responses.jsonl.gz and pairs.jsonl.gz")
    parser.add_argument("--output", type=Path, required=True, help="new folder for model, data and recipe")
    parser.add_argument("--longest-prompt", type=int, default=400, help="characters (default: 400)")
    parser.add_argument("--longest-response", type=int, default=500, help="characters (default: 500)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3.0, help="epochs of the SFT (default: 3)")
    parser.add_argument("--hidden", type=int, default=192, help="width of the model (default: 192)")
    arguments = vars(parser.parse_args(argv))
    disable_progress_bars()
    logging.disable_progress_bar()
    try:
        print(f"sgpo run --config {prepare(arguments.pop('data'), arguments.pop('output'), **arguments)}")
    except InputError as error:
        print(f"real_preferences: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
