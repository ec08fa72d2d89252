"""What people see of a long command: progress bars, on a terminal only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn


@runtime_checkable  # jaxtyping's checker in tests asks for it
class ProgressCallback(Protocol):
    """Told of progress: what is being done, how much of how much is done, and a word about it."""

    def __call__(self, what: str, done: int, total: int, note: str = "", /) -> None: ...


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """A report that draws one bar for each thing being done; silent where standard error is no terminal."""
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), "{task.fields[note]}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int, note: str = "", /) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, note=note)
            bars.update(tasks[what], completed=done, total=total, note=note)

        yield report
