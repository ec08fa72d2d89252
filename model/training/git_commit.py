"""The git commit of the running code, which cards and results record."""

import subprocess
from pathlib import Path


def git_commit() -> str:
    """Return the hash of the checked-out commit; "unknown" outside a repository or without git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:  # the Docker image has no git
        return "unknown"
    return found.stdout.strip() or "unknown"
