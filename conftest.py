"""Every test, of sgpo and of its study, runs offline, on one thread, and says nothing to any server."""

import os
from collections import Counter

from sgpo.threads import passive_waiting

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(passive_waiting())
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def pytest_collection_modifyitems(config, items):
    """Among several workers: files with slow tests first, then long ones, so that all end at about the same time.

    Files stay whole, as `--dist loadfile` hands them out: what a module's tests share is made once.
    """
    if not hasattr(config, "workerinput"):
        return
    slow, every = Counter(), Counter(item.path for item in items)
    slow.update(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (-slow[item.path], -every[item.path]))
