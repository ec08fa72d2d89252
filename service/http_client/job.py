"""Job: a durable batch of requests in a running service."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

import httpx

from enflow.model.chem.molecule import Molecule
from enflow.model.errors import ConfigError, DataError
from enflow.model.files import output, shown_name
from enflow.model.progress import ProgressCallback
from enflow.service.http_client.answers import read_document
from enflow.service.http_client.connection import Connection
from enflow.service.http_client.errors import ServiceError
from enflow.service.http_client.results import Json, MoleculeScore, molecule, score
from enflow.service.media_types import HTML, JSON, NDJSON, SDF, XYZ, ZIP

ACCEPT = {".json": JSON, ".ndjson": NDJSON, ".jsonl": NDJSON, ".xyz": XYZ, ".sdf": SDF, ".html": HTML, ".zip": ZIP}
"""The media type of the results by the ending of the file."""

POLL_S = 2.0
"""Seconds between two questions for the state."""

PAGE = 500
"""The number of results that are read at once."""


ID = re.compile("[0-9a-fA-F]{32}")
"""The form of an identifier."""

FIELDS = ("id", "kind", "state", "done", "failed", "n_molecules", "rate", "time_left_s", "ended", "detail")
"""The fields of a job that the client reads."""


def job_path(job_id: str) -> str:
    """Return the path of a job.

    Raises:
        ServiceError: it is no identifier, and would be the path of something else.
    """
    if not ID.fullmatch(str(job_id)):
        raise ServiceError(f"found no job {job_id!r:.100}, expected an id of 32 hexadecimal digits")
    return f"/jobs/{job_id}"


def media_type_of(path: Path) -> str:
    """Return the media type of a file of results.

    Raises:
        ConfigError: the ending of the file has none.
    """
    ending = path.suffix.lower()
    if ending not in ACCEPT:
        raise ConfigError(f"found the ending {path.suffix!r} of {path}; expected one of {', '.join(ACCEPT)}")
    return ACCEPT[ending]


class Job:
    """A job of a service, as it was when the service was last asked.

    Attributes:
        document: the fields of `GET /jobs/{id}`: state, done, failed, n_molecules, rate, time_left_s and others.
    """

    def __init__(self, connection: Connection, document: Mapping[str, Any]) -> None:
        self._connection = connection
        self.document = document

    def __repr__(self) -> str:
        return f"Job({self.id!r}, {self.state}, {self.done} of {self.n_molecules})"

    @property
    def id(self) -> str:
        """The identifier."""
        return str(self.document["id"])

    @property
    def state(self) -> str:
        """queued, running, done, failed or cancelled."""
        return str(self.document["state"])

    @property
    def done(self) -> int:
        """The number of molecules with an answer, failures included."""
        return int(self.document["done"])

    @property
    def n_molecules(self) -> int:
        """The number of molecules or structures of the job."""
        return int(self.document["n_molecules"])

    @property
    def ended(self) -> bool:
        """True once the job is done, failed or cancelled."""
        return self.document["ended"] is not None

    def refresh(self) -> Self:
        """Ask the service for the state of the job, and return the job."""
        self.document = self._connection.json("GET", job_path(self.id), FIELDS)
        return self

    def wait(self, progress: ProgressCallback | None = None, poll_s: float = POLL_S) -> Self:
        """Wait until the job has ended, and return it.

        Args:
            progress: is called with the task, the molecules done and all molecules.
            poll_s: seconds between two questions.

        Raises:
            ServiceError: the job failed or was cancelled; its results so far can be read.
        """
        while not self.refresh().ended:
            if progress:
                progress("computing", self.done, self.n_molecules)
            time.sleep(poll_s)
        if self.state != "done":
            raise ServiceError(f"the job {self.id} is {self.state}: {self.document['detail'] or 'by a request'}")
        return self

    def results(self, first: int = 0, count: int | None = None) -> Iterator[Molecule | MoleculeScore | ServiceError]:
        """Yield the results so far in order: a molecule or a score each, or the error of one that failed.

        Args:
            first: the first molecule, counted from 0.
            count: the number of molecules; None = all that are done.
        """
        done = self.refresh().done
        end = done if count is None else min(done, first + count)
        for place in range(first, end, PAGE):
            query = {"first": place, "count": min(PAGE, end - place)}
            yield from map(self._result, self._connection.repeated(partial(self._page, query)))

    def save(self, path: Path | str, first: int = 0, count: int | None = None) -> Path:
        """Write the results so far to a file, whole or not at all, and return its path; a symbolic link is followed.

        Args:
            path: the file: .sdf, .xyz, .json, .ndjson (a line for each), .html or .zip.
            first, count: see `results`.

        Raises:
            ConfigError: the ending of the file is none of those.
            DataError: the file cannot be written.
        """
        path = Path(path)
        media_type = media_type_of(path)
        query = {"first": first} | ({} if count is None else {"count": count})
        try:
            with output(path) as file:
                self._connection.repeated(partial(self._download, file, media_type, query))
        except OSError as error:
            raise DataError(f"cannot write {shown_name(path)}: {error.strerror}") from None
        return path

    def delete(self) -> Self:
        """Cancel the job, whose results so far stay; or remove it, with its results, if it has ended."""
        self.document = self._connection.json("DELETE", job_path(self.id), FIELDS, safe=False)
        return self

    def _page(self, query: Mapping[str, int]) -> list[Json]:
        with self._answer(NDJSON, query) as answer:
            return [read_document(answer, line, ["index"]) for line in answer.iter_lines()]

    def _download(self, file: IO[bytes], media_type: str, query: Mapping[str, int]) -> None:
        with self._answer(media_type, query) as answer:
            file.seek(0)
            file.truncate()  # a part of an answer that was cut off
            for piece in answer.iter_bytes():
                file.write(piece)

    def _answer(self, media_type: str, query: Mapping[str, int]) -> AbstractContextManager[httpx.Response]:
        return self._connection.stream("GET", f"{job_path(self.id)}/results", params=query, accept=media_type)

    def _result(self, document: Json) -> Molecule | MoleculeScore | ServiceError:
        if self.document["kind"] == "likelihood":
            return score(document)
        if "reason" in document:
            return ServiceError(f"molecule {document['index'] + 1} failed: {document['reason']}: {document['detail']}")
        return molecule(document)
