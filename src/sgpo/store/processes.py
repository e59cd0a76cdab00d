"""The processes of a run: one, or those that `accelerate launch` started."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

_Value = TypeVar("_Value")


class Processes:
    """This process, number `rank` of `count`, and how it synchronises with the others."""

    def __init__(self) -> None:
        self._state = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # A process waits for the others as long as the longest stage takes; the default limit is ten minutes.
            self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
        self.rank = self._state.process_index if self._state else 0
        self.count = self._state.num_processes if self._state else 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the shared files."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has called it; raises SystemExit if another one has ended."""
        if self._state:
            with self._needing_the_others():
                self._state.wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block before the others, which never enter it if the main one fails."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def from_main(self, value: _Value) -> _Value:
        """The main process's value, in every process; raises SystemExit if another process has ended."""
        if not self._state:
            return value
        values = [value]
        with self._needing_the_others():
            broadcast_object_list(values)
        return values[0]

    @contextmanager
    def _needing_the_others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # The process that failed reports why; one traceback or message is enough.
            reason = str(error).strip().partition("\n")[0]
            raise SystemExit(f"process {self.rank} of {self.count} ends, because another one has: {reason}") from error


def disconnect() -> None:
    """Ends the communication with the other processes, with a command's end. gloo's threads live as long as anything
    refers to the group, and one that still holds a tensor when the interpreter ends aborts the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    gc.collect()
