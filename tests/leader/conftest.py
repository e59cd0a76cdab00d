"""A tiny policy, a tiny reference, and a dataset of real conversations for the leader's tests."""

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.leader import SGPOConfig, SGPOTrainer
from tiny_model import build_tiny_model

ROWS = [
    ("Where is the bridge?", "The bridge is in the north of the town.", "I do not know."),
    ("What is the sky?", "The sky is blue in the morning.", "The sky is a cat."),
    ("Write a poem.", "A cat sleeps on the roof of a quiet house.", "Poem."),
    ("Thank you!", "You are welcome.", "Thank thank thank you you you."),
    ("Tell me about stone.", "Stone is old, and a bridge is built of it.", "Stone is red at night."),
    ("Who built it?", "The town built it.", "It was built of river."),
    ("How old is it?", "It is very old.", "Please."),
    ("Is the river quiet?", "Yes, the river is quiet.", "No, the river is a poem about a question."),
]


@pytest.fixture(scope="session")
def policy_path(tmp_path_factory):
    return str(build_tiny_model(tmp_path_factory.mktemp("policy"), seed=0))


@pytest.fixture(scope="session")
def reference_path(tmp_path_factory):
    return str(build_tiny_model(tmp_path_factory.mktemp("reference"), seed=1))


@pytest.fixture
def pairs():
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
            for prompt, chosen, rejected in ROWS
        ]
    )


@pytest.fixture
def make_arguments(tmp_path):
    def make(kind=SGPOConfig, **changes):
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "bf16": False,
            "activation_checkpointing": False,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "max_steps": 1,
            "dataloader_pin_memory": False,
        }
        return kind(**{**defaults, **changes})

    return make


@pytest.fixture
def make_trainer(policy_path, reference_path, pairs, make_arguments):
    """A trainer whose reference is another model, so that gaps are not zero."""

    def make(trainer=SGPOTrainer, config=SGPOConfig, dataset=None, ref_model="load", **changes):
        if ref_model == "load":
            ref_model = AutoModelForCausalLM.from_pretrained(reference_path)
        return trainer(
            model=AutoModelForCausalLM.from_pretrained(policy_path),
            ref_model=ref_model,
            args=make_arguments(config, **changes),
            train_dataset=pairs if dataset is None else dataset,
            processing_class=AutoTokenizer.from_pretrained(policy_path),
        )

    return make
