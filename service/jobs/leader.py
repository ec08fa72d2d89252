"""The choice of the one service that computes the jobs of a database.

Each lock ends with the process that holds it, also when the process is killed.
"""

import fcntl
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

LOCK = 0x656E666C
"""The number of the advisory lock: "enfl" in ASCII."""


class FileLeader:
    """A lock on a file beside an SQLite database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def lead(self) -> bool:
        """Return True where this object holds the lock; it takes the lock where it is free."""
        if self._file is None:
            file = self._path.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                return False
            self._file = file
        return True

    def close(self) -> None:
        """Give the lock back."""
        if self._file:
            self._file.close()
            self._file = None


class DatabaseLeader:
    """An advisory lock of PostgreSQL, held by a connection of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def lead(self) -> bool:
        """Return True where this object holds the lock; it takes the lock where it is free.

        Raises:
            SQLAlchemyError: the database does not answer; the lock is then free.
        """
        try:
            if self._connection is not None:
                self._connection.execute(text("SELECT 1"))
                return True
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            if not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}):
                connection.close()
                return False
            self._connection = connection
        except SQLAlchemyError:
            self.close()
            raise
        return True

    def close(self) -> None:
        """Give the lock back."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
        except SQLAlchemyError:
            connection.invalidate()
        connection.close()
