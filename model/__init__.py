"""Equivariant normalizing flows for molecules: the density, with no web in sight."""

import os

# Before anything imports torch: OpenMP's threads sleep between two operations instead of spinning. On two cores that
# others use as well, spinning made a product of 1500 x 128 take 42 ms instead of 0.7 ms (torch 2.13.0), and an engine
# with two threads did not start in three minutes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
