"""How a program keeps the memory that it frees."""

import ctypes
import os

# glibc's mallopt: what to change, by its own numbers, and the environment in which a user may have chosen.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Lets the process use its freed memory again, in place of giving it back to the system; whether it will.

    On a CPU every step of a language model allocates gigabytes, such as the logits of all words. glibc returns each
    block at once, and the system clears every page anew: with a small model as much work as a third of a training step.
    The peak is the same. False without glibc, or if the user has chosen otherwise; a library does not decide this.
    """
    if any(name in os.environ for name in _CHOICES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
