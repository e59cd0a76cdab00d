"""Every test, of sgpo and of its study, runs offline, on one thread, and says nothing to any server."""

import os

from sgpo.threads import passive_waiting

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(passive_waiting())
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
