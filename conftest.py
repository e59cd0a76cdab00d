"""Every test, of sgpo and of its study, runs offline, on one thread, and says nothing to any server."""

import os
from collections import Counter

import pytest

from sgpo.threads import passive_waiting

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(passive_waiting())
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def torch_has_cuda():
    import torch

    return torch.cuda.is_available()


# Markers of pyproject.toml: what their tests need, and whether it is there.
NEEDS = {
    "cuda": ("a CUDA device, which CUDA_VISIBLE_DEVICES must name", torch_has_cuda),
    "vllm": ("a real vLLM, whose interpreter SGPO_VLLM_PYTHON names", lambda: bool(os.environ.get("SGPO_VLLM_PYTHON"))),
}


def pytest_collection_modifyitems(config, items):
    skip_what_is_not_there(items)
    order_for_workers(config, items)


def skip_what_is_not_there(items):
    for marker, (what, is_there) in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not is_there():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"needs {what}"))


def order_for_workers(config, items):
    """Among several workers: files with slow tests first, then long ones, so that all end at about the same time.

    Files stay whole, as `--dist loadfile` hands them out: what a module's tests share is made once.
    """
    if not hasattr(config, "workerinput"):
        return
    slow, every = Counter(), Counter(item.path for item in items)
    slow.update(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (-slow[item.path], -every[item.path]))
