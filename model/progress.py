"""Progress bars of a long command, on a terminal only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn


@runtime_checkable  # the type checker of the tests needs it
class ProgressCallback(Protocol):
    """A function that is called as work goes on, with the task's name, the part done, the total, and a note."""

    def __call__(self, task: str, done: int, total: int, note: str = "", /) -> None: ...


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Yield a callback that draws one bar per task; it draws nothing where standard error is no terminal."""
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), "{task.fields[note]}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        ids: dict[str, TaskID] = {}

        def report(task: str, done: int, total: int, note: str = "", /) -> None:
            if task not in ids:
                ids[task] = bars.add_task(task, note=note)
            bars.update(ids[task], completed=done, total=total, note=note)

        yield report
