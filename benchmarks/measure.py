"""What the benchmarks that compare methods share: peak memory, each method in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def resident_peak() -> float:
    """This process's largest resident memory so far, in MiB; not getrusage's, which a child inherits on Linux."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_alone(script: str, words: Sequence[str]) -> Any:
    """Runs a script in a process that does nothing else, and returns the JSON of its last line."""
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])
