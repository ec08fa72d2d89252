"""The memory of the test process."""

import os
from pathlib import Path


def resident() -> int:
    """Return the resident bytes of this process, memory of C++ included; 0 on a system without /proc."""
    found = Path("/proc/self/statm")
    return int(found.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if found.exists() else 0
