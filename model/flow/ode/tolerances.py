"""The tolerances at which the arithmetic and the method of a solve change. No torch here: admission reads them too."""

import math
from typing import NamedTuple

TIGHTEST_FLOAT32 = 1e-7
"""The smallest tolerance for float32: 24 molecules were encoded and decoded as accurately as in float64."""

FINAL_SCALE = 0.04
"""The error that Adams' method allows at t = 1, in units of the tolerance. From t = 0 it falls in proportion to the
noise, with the tolerance as its mean (`error_at`): an error counts by the width of the density, which at time t is that
of the noise, 1 - t, and at last that of the molecule's bonds."""

TIGHTEST_ADAMS = TIGHTEST_FLOAT32 / FINAL_SCALE
"""The smallest tolerance for Adams' method of order 3: its last steps must not be finer than float32 is."""


class Ending(NamedTuple):
    """The end of a path by Adams' method."""

    final_scale: float
    """The error that is allowed at t = 1, in units of the tolerance."""
    straight_from: float = math.inf
    """The time from which a straight line along the velocity ends the path; it lies after the start."""


FINE = Ending(FINAL_SCALE)


class Accuracy(NamedTuple):
    """The accuracy of a pass: the factor on the tolerance, and the end of the path."""

    factor: float
    ending: Ending


COARSE = Accuracy(6.0, Ending(1.0, 0.9))
"""The accuracy of a sample's passes before the last, whose errors the next refinement removes;
`benchmarks/coarse_passes.py` compares it with others."""


def accuracy(refinements_left: int, coarse: Accuracy = COARSE) -> Accuracy:
    """Return the accuracy of a pass that so many refinements follow."""
    return coarse if refinements_left else Accuracy(1.0, FINE)
