"""The programs of sgpo use the memory that they have freed again."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from sgpo.memory import keep_freed_memory

if sys.argv[1] == "keep":
    kept = keep_freed_memory()
import numpy as np

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""
# Of 128 MiB; a page has at most 64 KiB.
PAGES = 2**24 * 8 // 2**16


def faults(how: str, **environment: str) -> int:
    """Page faults of allocating again as much as was freed."""
    # NumPy asks for huge pages, of which the same memory has few.
    settings = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    result = subprocess.run([sys.executable, "-c", FAULTS, how], env=settings, capture_output=True, text=True)
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how memory is freed is known of glibc alone")
def test_freed_memory_is_used_again_unless_the_user_has_chosen():
    assert faults("keep") < PAGES / 100
    assert faults("leave") > PAGES / 2
    assert faults("keep", MALLOC_MMAP_THRESHOLD_="65536") > PAGES / 2
