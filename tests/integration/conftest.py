"""A complete micro run: a tiny model, eight seed pairs, twelve prompts, two rounds."""

import json

import pytest
import yaml
from tiny_model import build_tiny_model

WORDS = ["bridge", "river", "town", "cat", "roof", "house", "stone", "sky", "poem", "question", "night", "morning"]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def micro_recipe(folder):
    """Writes model, data and recipe into a folder and returns the recipe's content."""
    model = build_tiny_model(folder / "model", seed=0)
    pairs = [
        {"prompt": f"Tell me about the {word}.", "chosen": f"The {word} is old and quiet.", "rejected": "I do not know."}
        for word in WORDS
    ]
    content = {
        "output": str(folder / "run"),
        "seed": 3,
        "rounds": 2,
        "model": {"path": str(model)},
        "data": {
            "seeds": write_jsonl(folder / "seeds.jsonl", pairs[:8]),
            "prompts": write_jsonl(folder / "prompts.jsonl", [{"prompt": f"What is a {word}?"} for word in WORDS]),
            "heldout": write_jsonl(folder / "heldout.jsonl", pairs[8:]),
            "seeds_in_rounds": True,
        },
        "generation": {"candidates": 3, "max_new_tokens": 24, "temperature": 1.0},
        "follower": {"radius": 0.05},
        "leader": {
            "learning_rate": 1e-3,
            "batch_size": 4,
            "micro_batch_size": 2,
            "epochs": 1,
            "seed_epochs": 1,
            "max_length": 128,
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return content


@pytest.fixture
def recipe(tmp_path):
    """The path of a micro recipe."""
    micro_recipe(tmp_path)
    return tmp_path / "recipe.yaml"
