"""Ports for servers of other programs, which cannot report the port that the kernel gave them."""

import random
import socket

UNASSIGNED = range(20_000, 32_768)
"""Linux assigns ports above these to connections and to servers on port 0, so that none is taken by chance later."""


def free_port() -> int:
    """Return a port of the local host that nobody uses."""
    for port in random.sample(UNASSIGNED, 100):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                return port
    raise RuntimeError("found no free port among 100, expected one")
