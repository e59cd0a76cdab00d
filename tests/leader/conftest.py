"""A tiny policy, a tiny reference, and a dataset of real conversations for the leader's tests."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from leader.batches import make_pairs
from sgpo.leader import SGPOConfig, SGPOTrainer
from tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def policy_path(tmp_path_factory):
    return str(build_tiny_model(tmp_path_factory.mktemp("policy"), seed=0))


@pytest.fixture(scope="session")
def reference_path(tmp_path_factory):
    return str(build_tiny_model(tmp_path_factory.mktemp("reference"), seed=1))


@pytest.fixture
def pairs():
    return make_pairs()


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

    def make(
        trainer=SGPOTrainer, config=SGPOConfig, dataset=None, ref_model="load", model="load", more=None, **changes
    ):
        if ref_model == "load":
            ref_model = AutoModelForCausalLM.from_pretrained(reference_path)
        return trainer(
            model=AutoModelForCausalLM.from_pretrained(policy_path) if model == "load" else model,
            ref_model=ref_model,
            args=make_arguments(config, **changes),
            train_dataset=pairs if dataset is None else dataset,
            processing_class=AutoTokenizer.from_pretrained(policy_path),
            **(more or {}),
        )

    return make
