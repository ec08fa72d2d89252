"""Files that are replaced in one step: a reader finds the old content or the new one, never a part of it."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO

STANDARD_OUTPUTS = 1, 2
"""The descriptors of standard output and standard error."""

IN_MEMORY = 2**24
"""Bytes of an output that are held in memory until it is whole, where it cannot be replaced in one step."""


@contextmanager
def replacement(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` where the block ends without an error.

    Args:
        path: the file to replace; its folder exists.
    """
    partial = path.with_name(f".{path.name[-40:]}.{os.getpid()}")  # a whole name could be too long with the number
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Replace the content of a file, or make the file; its folder exists."""
    with replacement(path) as file:
        file.write(content)


@contextmanager
def output(path: Path) -> Iterator[IO[bytes]]:
    """Open the file that a user names for a result; it is written where the block ends without an error.

    A symbolic link is followed, and a file keeps its mode and its owner. A device, a pipe, a file that is open as
    standard output, and one in a folder that takes no other file are written in place, once the content is whole.

    Args:
        path: the file; its folder exists.
    """
    found = _status(path)
    target = Path(os.path.realpath(path))  # unlike Path.resolve, it takes a link that leads to itself
    if found and (not stat.S_ISREG(found.st_mode) or _is_standard(found) or not os.access(target.parent, os.W_OK)):
        with SpooledTemporaryFile(IN_MEMORY) as whole:
            yield whole
            whole.seek(0)
            with path.open("wb") as file:
                shutil.copyfileobj(whole, file)
        return
    with replacement(target) as file:
        if found and hasattr(os, "fchown"):
            with suppress(PermissionError):
                os.fchown(file.fileno(), found.st_uid, found.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(found.st_mode))
        yield file


def write_output(path: Path, text: str) -> None:
    """Write the file that a user names for a result, as UTF-8; see `output`."""
    with output(path) as file:
        file.write(text.encode())


def shown_name(path: Path | str) -> str:
    """Return a path, or a text with one, as it can be printed: replacement characters stand for what is not UTF-8."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _is_standard(found: os.stat_result) -> bool:
    for number in STANDARD_OUTPUTS:
        with suppress(OSError):  # it may be closed
            if os.path.samestat(found, os.fstat(number)):
                return True
    return False
