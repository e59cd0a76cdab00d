"""A complete micro run: a tiny model, eight seed pairs, twelve prompts, two rounds."""

import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_model import build_tiny_model

WORDS = ["bridge", "river", "town", "cat", "roof", "house", "stone", "sky", "poem", "question", "night", "morning"]

PAIRS = [
    {"prompt": f"Tell me about the {word}.", "chosen": f"The {word} is old and quiet.", "rejected": "I do not know."}
    for word in WORDS
]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def teach_to_stop(path, rows, steps=60):
    """Trains a tiny model on a few conversations, so that its responses end."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    conversations = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}] for row in rows
    ]
    batch = tokenizer.apply_chat_template(conversations, return_dict=True, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)


@pytest.fixture(scope="session")
def micro_model(tmp_path_factory):
    """A tiny model whose responses end."""
    path = build_tiny_model(tmp_path_factory.mktemp("micro") / "model", seed=0)
    teach_to_stop(path, PAIRS)
    return str(path)


@pytest.fixture
def recipe(tmp_path, micro_model):
    """The path of a micro recipe, next to its data; the run goes to the folder `run`."""
    content = {
        "output": str(tmp_path / "run"),
        "seed": 3,
        "rounds": 2,
        "model": {"path": micro_model},
        "data": {
            "seeds": write_jsonl(tmp_path / "seeds.jsonl", PAIRS[:8]),
            "prompts": write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"What is a {word}?"} for word in WORDS]),
            "heldout": write_jsonl(tmp_path / "heldout.jsonl", PAIRS[8:]),
            "seeds_in_rounds": True,
        },
        "generation": {"candidates": 3, "max_new_tokens": 24, "temperature": 1.0},
        "follower": {"radius": 0.05},
        "leader": {
            "learning_rate": 1e-3,
            "batch_size": 4,
            "micro_batch_size": 2,
            "seed_epochs": 1,
            "max_length": 128,
            # Eight seeds are too few for validation pairs; tests/integration/test_shipping.py has more.
            "accept": "always",
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "recipe.yaml"
