"""The tolerances at which the arithmetic and the method of a solve change. No torch here: admission reads them too."""

from typing import NamedTuple

TIGHTEST_FLOAT32 = 1e-7
"""The smallest tolerance for float32: 24 molecules were encoded and decoded as accurately as in float64."""

FINAL_SCALE = 0.04
"""The error that Adams' method allows at t = 1, in units of the tolerance. From t = 0 it falls in proportion to the
noise, with the tolerance as its mean (`error_at`): an error counts by the width of the density, which at time t is that
of the noise, 1 - t, and at last that of the molecule's bonds."""

TIGHTEST_ADAMS = TIGHTEST_FLOAT32 / FINAL_SCALE
"""The smallest tolerance for Adams' method of order 3: its last steps must not be finer than float32 is."""

ROUGH = 3.0
"""The factor on the tolerance of a sample's passes before the last: the next refinement removes their errors."""


class Accuracy(NamedTuple):
    """The accuracy of a pass: the factor on the tolerance, and the error allowed at t = 1 in units of the product."""

    factor: float
    final_scale: float


def accuracy(refinements_left: int) -> Accuracy:
    """Return the accuracy of a pass that so many refinements follow: their noise hides the errors of the end."""
    return Accuracy(ROUGH, 1.0) if refinements_left else Accuracy(1.0, FINAL_SCALE)
