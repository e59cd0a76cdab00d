"""Ends a group of processes when the process that started it is gone, even if that was killed.

Run as a script (standard library only), it waits for the end of its input, a pipe that closes with the other process:
`echo GROUP | python watch.py GRACE`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable

_POLL = 0.05


def end_group(group: int, grace: float, *, reap: Callable[[], object] = lambda: None) -> None:
    """Ends every process of a group: SIGTERM, and SIGKILL for those left after `grace` seconds. `reap` is called while
    waiting, and collects the exit status of the group's leader, a member until then."""
    for sign, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        if not _send(group, sign):
            return
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            reap()
            if not _send(group, 0):
                return
            time.sleep(_POLL)


def _send(group: int, sign: int) -> bool:
    """Sends a signal; returns whether the group has members."""
    try:
        os.killpg(group, sign)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    if told := sys.stdin.buffer.read():
        end_group(int(told), float(sys.argv[1]))
