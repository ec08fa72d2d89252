"""The processes that the service starts: Ctrl-C does not reach them, from their first moment.

A terminal sends SIGINT to the whole process group. The service stops its processes itself, after it has drained; one
that were interrupted while it loads its modules would print a traceback, and be replaced.
"""

import signal
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess


class UninterruptedProcess(SpawnProcess):
    """A spawned process in which SIGINT is blocked, and in the processes that it starts."""

    def start(self) -> None:
        """Start the process."""
        resource_tracker.ensure_running()  # the first process would start it, and that unblocks SIGINT
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process inherits the mask
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class UninterruptedContext(SpawnContext):
    """A context of `multiprocessing` for such processes; a fork would copy the threads and sockets of the service."""

    Process = UninterruptedProcess
