"""How PyTorch's OpenMP threads wait for each other: asleep in the programs of sgpo, to share a machine."""

import os
import sys

# Each decides how long threads spin before they sleep: OpenMP's own, GNU's, and LLVM's and Intel's.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def passive_waiting() -> dict[str, str]:
    """What to set before torch is imported: `os.environ.update(passive_waiting())`. Spinning threads hold the core that
    the thread they wait for needs; asleep, they cost nothing. Empty if the user has said how to wait, or torch is
    imported."""
    if "torch" in sys.modules or any(name in os.environ for name in _WAITING):
        return {}
    return {"OMP_WAIT_POLICY": "PASSIVE"}
