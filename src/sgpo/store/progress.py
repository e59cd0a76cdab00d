"""Progress: a line per finished stage, and a bar for long work on a terminal or a line at its start elsewhere."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Called with the number of items newly done, or a fraction of one.
Advance = Callable[[float], None]


def in_shares(progress: Advance | None, items: int, steps: int) -> Advance | None:
    """Progress over `steps` steps that make up `items` items: each step advances `progress` by its share of an item."""
    if progress is None:
        return None
    share = items / max(steps, 1)
    return lambda count: progress(count * share)


class Reporter:
    """Reports the progress of a run to a console, if there is one; bars are drawn only on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bars: Progress | None = None

    def say(self, message: str) -> None:
        """Writes one line."""
        if self._console:
            self._console.print(message, highlight=False)

    @contextmanager
    def showing(self, alerts: type[Warning]) -> Iterator[None]:
        """Prints warnings of one kind as lines; all others are shown as usual."""
        before = warnings.showwarning

        def show(message, category, *place, **more):
            if issubclass(category, alerts):
                self.say(f"  [yellow]![/yellow] {escape(str(message))}")
            else:
                before(message, category, *place, **more)

        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.showwarning = before

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Shows a stage while it runs, or says that it has begun, and its time once it is done."""
        started = time.monotonic()
        if self._console and self._console.is_terminal:
            columns = (TextColumn("  {task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
            times = (TimeElapsedColumn(), TimeRemainingColumn())
            with Progress(*columns, *times, console=self._console, transient=True) as self._bars:
                self._bars.add_task(name, total=None)
                yield
            self._bars = None
        else:
            # A log would be silent for as long as the first stage takes.
            self.say(f"  … {name}")
            yield
        self.say(f"  [green]✓[/green] {name:<26} {time.monotonic() - started:6.1f} s")

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Advance]:
        """A bar inside a stage; yields the function that advances it by a number of items."""
        if not self._bars:
            yield lambda count: None
            return
        bars, task = self._bars, self._bars.add_task(description, total=total)
        yield lambda count: bars.advance(task, count)
        bars.remove_task(task)


def hide_other_bars() -> None:
    """Hides the progress bars of datasets and transformers."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
