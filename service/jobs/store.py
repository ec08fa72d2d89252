"""The store: jobs and the parts of their results, in SQLite or PostgreSQL."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Row, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from enflow.model.errors import ConfigError, EnflowError
from enflow.service.jobs.leader import DatabaseLeader, FileLeader
from enflow.service.jobs.records import JobPart, JobRecord
from enflow.service.schemas.jobs import JobState

EXPECTED_URL = "sqlite:////path/jobs.sqlite or postgresql://user@host/database"
"""The URLs of a database that an error names."""

METADATA = MetaData()

JOBS = Table(
    "enflow_jobs",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("client", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("request", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("model", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    Column("seconds_each", Float(53), nullable=False),
    Column("created", Float(53), nullable=False),
    Column("state", String(16), nullable=False),
    Column("done", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("tried", BigInteger, nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("ended", Float(53)),
    Column("detail", Text, nullable=False),
    Index("enflow_jobs_ended", "ended", "created"),
)

PARTS = Table(
    "enflow_job_parts",
    METADATA,
    Column("job_id", ForeignKey(JOBS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("start", Integer, primary_key=True),
    Column("stop", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

WITHOUT_REQUEST = [JOBS.c[field.name] for field in fields(JobRecord) if field.name != "request"]
"""The columns of a list of jobs: a request may hold megabytes of structures."""


class StoreError(EnflowError):
    """The database does not answer, or cannot store any more."""


class JobStore:
    """Jobs and the parts of their results.

    Args:
        url: a URL of SQLAlchemy, such as sqlite:////var/lib/enflow/jobs.sqlite or postgresql://user@host/enflow.

    Raises:
        ConfigError: the URL is none, its server does not answer, or the driver is not installed.
        StoreError: the file of an SQLite database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._engine = _open(url)
        file = self._engine.url.database or ""
        sqlite = self._engine.dialect.name == "sqlite"
        self._leader = FileLeader(Path(f"{file}.lock")) if sqlite else DatabaseLeader(self._engine)

    def add(self, job: JobRecord) -> None:
        """Store a new job."""
        with self._transaction() as connection:
            connection.execute(insert(JOBS).values(asdict(job)))

    def get(self, job_id: str) -> JobRecord | None:
        """Return the job with this id, or None."""
        with self._transaction() as connection:
            return _record(connection.execute(select(JOBS).where(JOBS.c.id == job_id)).first())

    def newest(self, client: str | None, count: int) -> list[JobRecord]:
        """Return the newest jobs of a client (None = of all), without their requests."""
        query = select(*WITHOUT_REQUEST).order_by(JOBS.c.created.desc()).limit(count)
        with self._transaction() as connection:
            rows = connection.execute(query if client is None else query.where(JOBS.c.client == client))
            return [JobRecord(request="", **row._mapping) for row in rows]  # noqa: SLF001 - documented by SQLAlchemy

    def unfinished(self) -> list[JobRecord]:
        """Return the queued and the running jobs, oldest first, without their requests."""
        query = select(*WITHOUT_REQUEST).where(JOBS.c.ended.is_(None)).order_by(JOBS.c.created, JOBS.c.id)
        with self._transaction() as connection:
            return [JobRecord(request="", **row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    def begin(self, job_id: str) -> None:
        """Note that a queued job is computed now."""
        with self._transaction() as connection:
            here = (JOBS.c.id == job_id) & (JOBS.c.state == "queued")
            connection.execute(update(JOBS).where(here).values(state="running"))

    def store_part(self, job_id: str, part: JobPart) -> JobRecord | None:
        """Store a part, and move the counts of its job, in one transaction.

        Returns:
            The job with its new counts; None, and nothing is stored, where the job has ended or its answered molecules
            do not end where the part starts.
        """
        here = (JOBS.c.id == job_id) & (JOBS.c.done == part.start) & JOBS.c.ended.is_(None)
        whole = JOBS.c.size == part.stop
        now = time.time()
        counts = {
            "done": part.stop,
            "failed": JOBS.c.failed + part.failed,
            "tried": JOBS.c.tried + part.tried,
            "seconds": JOBS.c.seconds + part.seconds,
            "stored_bytes": JOBS.c.stored_bytes + len(part.data),
        }
        with self._transaction() as connection:
            if connection.execute(update(JOBS).where(here).values(counts)).rowcount == 0:
                return None
            row = {"job_id": job_id, "start": part.start, "stop": part.stop, "data": part.data}
            connection.execute(insert(PARTS).values(row))
            ended = update(JOBS).where((JOBS.c.id == job_id) & whole).values(state="done", ended=now)
            connection.execute(ended)
            return _record(connection.execute(select(JOBS).where(JOBS.c.id == job_id)).first())

    def end(self, job_id: str, state: JobState, detail: str = "") -> bool:
        """End a job that has not ended; return False where it had."""
        here = (JOBS.c.id == job_id) & JOBS.c.ended.is_(None)
        with self._transaction() as connection:
            changed = connection.execute(update(JOBS).where(here).values(state=state, detail=detail, ended=time.time()))
            return changed.rowcount > 0

    def parts(self, job_id: str, start: int, stop: int) -> Iterator[JobPart]:
        """Yield the stored parts that hold some of the molecules `start` to `stop` - 1, in order."""
        query = select(PARTS).where(PARTS.c.job_id == job_id, PARTS.c.start < stop).order_by(PARTS.c.start).limit(1)
        while start < stop:
            with self._transaction() as connection:
                row = connection.execute(query.where(PARTS.c.stop > start)).first()
            if row is None:
                return
            yield JobPart(row.start, row.stop, bytes(row.data))
            start = row.stop

    def remove(self, job_id: str) -> None:
        """Remove a job and its results."""
        with self._transaction() as connection:
            _remove(connection, [job_id])

    def remove_ended(self, before: float) -> int:
        """Remove the jobs that ended before a time in seconds since the epoch; return their number."""
        with self._transaction() as connection:
            ids = list(connection.scalars(select(JOBS.c.id).where(JOBS.c.ended < before)))
            _remove(connection, ids)
            return len(ids)

    def make_room(self, limit: int) -> bool:
        """Remove the jobs that ended first until all requests and parts have at most `limit` bytes.

        Returns:
            False where the jobs that have not ended have more; then none is removed.
        """
        total = select(func.coalesce(func.sum(JOBS.c.stored_bytes), 0))
        oldest = select(JOBS.c.id).where(JOBS.c.ended.is_not(None)).order_by(JOBS.c.ended).limit(1)
        with self._transaction() as connection:
            if int(connection.scalar(total.where(JOBS.c.ended.is_(None))) or 0) > limit:
                return False
            while int(connection.scalar(total) or 0) > limit:
                ended = connection.scalar(oldest)
                if ended is None:  # another service has added jobs meanwhile
                    return False
                _remove(connection, [ended])
        return True

    def count_open(self, client: str) -> int:
        """Return the number of a client's jobs that have not ended."""
        query = select(func.count()).where(JOBS.c.client == client, JOBS.c.ended.is_(None))
        with self._transaction() as connection:
            return int(connection.scalar(query) or 0)

    def lead(self) -> bool:
        """Return True where this store is the one, of all that share the database, whose service computes the jobs."""
        with _as_store_error():
            return self._leader.lead()

    def close(self) -> None:
        """Give up the lead and close all connections."""
        self._leader.close()
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with _as_store_error(), self._engine.begin() as connection:
            yield connection


def _open(url: str) -> Engine:
    sqlite = False
    try:
        parsed = make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if sqlite and parsed.database:
            file = Path(parsed.database).expanduser()  # RuntimeError: the user has no home
            file.parent.mkdir(parents=True, exist_ok=True)
            parsed = parsed.set(database=str(file))
        engine = create_engine(parsed, pool_pre_ping=True)
        if sqlite:
            event.listen(engine, "connect", _configure_sqlite)
        METADATA.create_all(engine)
    except ModuleNotFoundError as error:
        if error.name != "psycopg":  # the driver of a database that Enflow has not been tried with
            raise ConfigError(f"ENFLOW_JOBS_URL: found no URL of a database, expected {EXPECTED_URL}") from None
        raise ConfigError("ENFLOW_JOBS_URL: found no module psycopg; pip install 'enflow[postgres]'") from None
    except (ArgumentError, NoSuchModuleError):
        raise ConfigError(f"ENFLOW_JOBS_URL: found no URL of a database, expected {EXPECTED_URL}") from None
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        reason = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        shown = make_url(url).render_as_string(hide_password=True)
        kind = StoreError if sqlite else ConfigError
        raise kind(f"ENFLOW_JOBS_URL: the database {shown} cannot be opened: {reason}") from None
    return engine


def _configure_sqlite(connection: Any, _: object) -> None:
    """Let readers work beside the writer, and keep every stored part also when the machine loses its power."""
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {setting}")


def _remove(connection: Connection, ids: Sequence[str]) -> None:
    for job_id in ids:
        connection.execute(delete(PARTS).where(PARTS.c.job_id == job_id))
        connection.execute(delete(JOBS).where(JOBS.c.id == job_id))


def _record(row: Row[Any] | None) -> JobRecord | None:
    return None if row is None else JobRecord(**row._mapping)  # noqa: SLF001


@contextmanager
def _as_store_error() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(f"the store of jobs failed: {type(error).__name__}") from error
