"""How PyTorch's OpenMP threads wait for each other: asleep in the programs of sgpo, to share a machine."""

import os
import sys

# Each decides how long threads spin before they sleep: OpenMP's own, GNU's, and LLVM's and Intel's.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def passive_waiting() -> dict[str, str]:
    """The environment that a program needs before torch is imported: `os.environ.update(passive_waiting())`.

    By default the threads spin. Beside other busy processes a spinning thread holds the core that the thread it waits
    for needs, and the work takes many times as long; on an idle machine sleeping costs nothing that can be measured.
    Empty if the user has said how to wait, or once torch is imported, since OpenMP reads the environment once.
    `import sgpo` does not set it: how a whole process waits is decided by its program.
    """
    if "torch" in sys.modules or any(name in os.environ for name in _WAITING):
        return {}
    return {"OMP_WAIT_POLICY": "PASSIVE"}
