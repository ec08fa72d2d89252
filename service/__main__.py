"""The entry point of the command `enflow`, which loads its modules inside `main`.

So a signal can end it quietly while they load, and a process that the service starts, which imports this module again,
does not load the command line.
"""

import os
import signal
import sys
from types import FrameType

EXIT_CODE = 128
"""The exit code of a command that a signal ends, less the number of the signal: 130 for Ctrl-C, as in a shell."""

FIRST_PID = 1
"""The process of a container without an init: the system sends it no signal that has no handler."""


def main() -> None:
    """Run the command line."""
    signals = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) != signal.SIG_IGN]
    # A KeyboardInterrupt within an import prints a traceback, or the import reports it as another error.
    before = {each: signal.signal(each, _end) for each in signals}
    from enflow.service.command_line import main as run

    for each, handler in before.items():
        signal.signal(each, handler)
    if os.getpid() == FIRST_PID:
        signal.signal(signal.SIGTERM, _exit)
    run()


def _end(number: int, _: FrameType | None) -> None:
    os._exit(EXIT_CODE + number)


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(EXIT_CODE + number)


if __name__ == "__main__":
    main()
