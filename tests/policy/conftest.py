import pytest

from sgpo.policy.load import load_policy
from tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def policy_path(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("policy") / "tiny", seed=0)


@pytest.fixture(scope="session")
def policy(policy_path):
    return load_policy(policy_path, device="cpu")
