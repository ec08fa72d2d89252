"""The tolerances at which the arithmetic and the method of a solve change. No torch here: admission reads them too."""

TIGHTEST_FLOAT32 = 1e-7
"""The smallest tolerance for float32: 24 molecules were encoded and decoded as accurately as in float64."""

TIGHTEST_ADAMS = 1e-6
"""The smallest tolerance for Adams' method of order 3; below it Dormand-Prince needs fewer evaluations."""

ROUGH = 3.0
"""The factor on the tolerance of a sample's passes before the last: the next refinement removes their errors."""


def roughness(refinements_left: int) -> float:
    """Return the factor on the tolerance of a pass that so many refinements follow."""
    return ROUGH if refinements_left else 1.0
