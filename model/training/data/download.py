"""A file elsewhere, with its size and hash: brought here once, resumed where a connection broke."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from enflow.model.errors import DataError
from enflow.model.progress import ProgressCallback

ATTEMPTS = 5
"""Connections in a row that may bring nothing; one that brought something starts the count anew."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that anyone can check: its name here, its address, its bytes and their SHA-256."""

    name: str
    url: str
    size: int
    sha256: str

    def verify(self, path: Path) -> None:
        """Raise unless `path` holds exactly this file.

        Raises:
            DataError: the size or the hash differs.
        """
        if (size := path.stat().st_size) != self.size:
            raise DataError(f"{path} has {size} bytes; expected {self.size}; remove it and fetch it again")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise DataError(f"{path} has SHA-256 {digest}; expected {self.sha256}; remove it and fetch it again")

    def fetch(self, folder: Path, report: ProgressCallback, pause: float = 1.0) -> Path:
        """Bring the file into `folder`, going on with a part that is there already, and verify it.

        Args:
            folder: where the file goes; made if missing.
            report: told the bytes so far.
            pause: seconds before a second connection; doubled with every one that brings nothing.

        Raises:
            DataError: the server does not answer or refuses, or what came is not the file.
        """
        path = folder / self.name
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"{self.name}.part"
            self._complete(part, report, pause)
            try:
                self.verify(part)
            except DataError:
                part.unlink()  # going on with a wrong part would never end well
                raise
            part.rename(path)
        self.verify(path)
        return path

    def _complete(self, part: Path, report: ProgressCallback, pause: float) -> None:
        failures = 0
        while (before := _size(part)) < self.size:
            try:
                self._append(part, report)
            except httpx.HTTPStatusError as error:
                raise DataError(f"{self.url} answers {error.response.status_code}; expected the file") from error
            except httpx.HTTPError as error:
                failures = 0 if _size(part) > before else failures + 1
                if failures == ATTEMPTS:
                    raise DataError(
                        f"{self.url} cannot be reached ({type(error).__name__} {error}): "
                        f"{before} of {self.size} bytes are in {part}, and the next call goes on from there"
                    ) from error
                time.sleep(pause * 2**failures)
            else:
                break  # a short but complete answer is for `verify` to judge

    def _append(self, part: Path, report: ProgressCallback) -> None:
        done = _size(part)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
        with httpx.stream("GET", self.url, headers=headers, follow_redirects=True, timeout=60.0) as answer:
            answer.raise_for_status()
            resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
            done = done if resumed else 0
            with part.open("ab" if resumed else "wb") as file:
                for block in answer.iter_raw():
                    file.write(block)
                    done += len(block)
                    report(self.name, done, self.size)
                    if done > self.size:
                        break  # not the file: no need to fill the disk with the rest of it


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
