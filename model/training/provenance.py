"""Which code made something."""

import subprocess
from pathlib import Path


def commit() -> str:
    """The commit that the code stands at, or "unknown" outside a repository."""
    here = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)  # noqa: S607
    return found.stdout.strip() or "unknown"
