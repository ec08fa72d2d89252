"""The git commit of the running code, which cards and results record."""

import subprocess
from pathlib import Path


def git_commit() -> str:
    """Return the hash of the checked-out commit; "unknown" outside a repository or without git.

    An installed package lies in an environment, which may lie in a repository of its user: a commit of that one is not
    the commit of this code.
    """
    place = Path(__file__)
    own = _git("ls-files", "--", place.name, folder=place.parent)
    return (own and _git("rev-parse", "--verify", "HEAD", folder=place.parent)) or "unknown"


def _git(*arguments: str, folder: Path) -> str:
    """Return the output of git; empty where it failed, or is missing, as in the Docker image."""
    try:
        found = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
