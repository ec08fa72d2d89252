"""The download of a file with a known size and SHA-256, by pooch."""

from dataclasses import dataclass
from pathlib import Path

from enflow.model.errors import DataError
from enflow.model.progress import ProgressCallback
from enflow.model.training.data.qm9 import sha256_of

ATTEMPTS = 5
"""Number of times that a download is tried."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        name: name of the local copy.
        url: address of the file.
        size: length in bytes.
        sha256: hash of the content.
    """

    name: str
    url: str
    size: int
    sha256: str

    def verify(self, path: Path) -> None:
        """Check that a local file has the known size and hash.

        Raises:
            DataError: the size or the hash differs.
        """
        if (size := path.stat().st_size) != self.size:
            raise DataError(f"{path} has {size} bytes; expected {self.size}; remove it and fetch it again")
        if (digest := sha256_of(path)) != self.sha256:
            raise DataError(f"{path} has SHA-256 {digest}; expected {self.sha256}; remove it and fetch it again")

    def fetch(self, folder: Path, report: ProgressCallback) -> Path:
        """Download the file, unless the folder has it, and verify it.

        Args:
            folder: folder of the local copy; made if it is missing.
            report: receives the number of bytes so far.

        Returns:
            The path of the local copy.

        Raises:
            DataError: the server does not answer or refuses, or the content is not the expected one.
        """
        path = folder / self.name
        if not path.exists():
            self._download(folder, report)
        self.verify(path)
        return path

    def _download(self, folder: Path, report: ProgressCallback) -> None:
        import pooch

        pooch.get_logger().setLevel("WARNING")
        files = pooch.create(
            folder,
            base_url="",
            registry={self.name: f"sha256:{self.sha256}"},
            urls={self.name: self.url},
            retry_if_failed=ATTEMPTS - 1,
        )
        progress = _ByteProgress(self.name, self.size, report)
        try:
            files.fetch(self.name, downloader=pooch.HTTPDownloader(progressbar=progress, timeout=60.0))
        except OSError as error:  # the base class of all errors of requests
            response = getattr(error, "response", None)
            if response is not None:
                raise DataError(f"{self.url} answers {response.status_code}; expected the file") from error
            raise DataError(
                f"{self.url} cannot be reached ({type(error).__name__} {error}); try again later"
            ) from error
        except ValueError as error:
            raise DataError(f"{self.url} is not the expected file: {error}") from error


class _ByteProgress:
    """The progress bar that pooch expects, as calls of a `ProgressCallback`."""

    def __init__(self, name: str, size: int, report: ProgressCallback) -> None:
        self.name, self.report = name, report
        self.total, self.done = size, 0

    def update(self, n_bytes: int) -> None:
        """Add received bytes; pooch counts the last block in full."""
        self.done = min(self.total, self.done + n_bytes)
        self.report(self.name, self.done, self.total)

    def reset(self) -> None:
        """Start from 0 again."""
        self.done = 0

    def close(self) -> None:
        """Do nothing; the caller owns the progress bar."""
