"""The options of a likelihood estimate; plain Python, so that the service's protocol can import them without torch."""

import math
from dataclasses import dataclass
from typing import Literal

from enflow.model.config import STANDARD, check_tolerances
from enflow.model.errors import ConfigError

Divergence = Literal["exact", "hutchinson"]

PROBES = 3
"""The default number of probes per node. Each takes 32 evaluations of the velocity, and a path takes 90 to 130. With 3
the variance of a draw was 4 to 28 nats^2, 7.5 in the median, and the first four draws reached an error of 2 nats for 7
of 12 test molecules of 18 atoms (bundled weights)."""

PROBE_NODES = 32
"""Nodes of an estimated divergence for each of its probes; every node has a new probe."""

FIRST_DRAWS, MAX_DRAWS = 4, 32
"""The draws of the first round, and the budget, where a target error is asked for."""

EXACT_DRAWS = 2
"""The default number of draws with the exact divergence: the smallest number that shows an error."""


def path_tolerance(tolerance: float, exact: bool, target_error: float = math.inf) -> float:
    """Return rtol or atol of the path for an exact likelihood, or for an estimated one to a target error in nats."""
    return max(tolerance / 3000 if exact else min(tolerance / 30, 1e-5 * target_error), 1e-12)


@dataclass(frozen=True)
class EstimatorOptions:
    """How a likelihood is estimated.

    Attributes:
        divergence: "hutchinson" estimates the trace with random signs; "exact" takes one product per dimension.
        probes: Hutchinson probes per node, on average over 32 nodes; None = 3.
        draws: draws of the dequantizer; None = as many as `target_error` needs, 4 to 32 (2 with "exact").
        rtol: relative tolerance, which the path and the quadrature derive their own from.
        atol: absolute tolerance.
        target_error: standard error in nats at which draws stop, where `draws` is None.

    Raises:
        ConfigError: a value is out of range.
    """

    divergence: Divergence = "hutchinson"
    probes: int | None = None
    draws: int | None = None
    rtol: float = STANDARD
    atol: float = STANDARD
    target_error: float = 2.0

    def __post_init__(self) -> None:
        if self.divergence not in ("exact", "hutchinson"):
            raise ConfigError(f'divergence: found {self.divergence!r}, expected "exact" or "hutchinson"')
        for name in ("probes", "draws"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: found {value} {name}, expected at least 1")
        if not self.target_error > 0:
            raise ConfigError(f"target_error: found {self.target_error} nats, expected a number above 0")
        check_tolerances(self.rtol, self.atol)

    @property
    def path_tolerances(self) -> tuple[float, float]:
        """rtol and atol of the path."""
        rtol, atol = (path_tolerance(each, self.exact, self.target_error) for each in (self.rtol, self.atol))
        return rtol, atol

    @property
    def exact(self) -> bool:
        """True where the divergence is exact."""
        return self.divergence == "exact"

    @property
    def probes_per_node(self) -> int:
        """The number of probes per node; 0 with the exact divergence."""
        return 0 if self.exact else self.probes or PROBES

    @property
    def first_draws(self) -> int:
        """The number of draws of the first round."""
        return self.draws or (EXACT_DRAWS if self.exact else FIRST_DRAWS)

    @property
    def paired(self) -> bool:
        """True where draws come in mirrored pairs, which takes an even number and at least two pairs for an error."""
        return self.first_draws >= 4 and self.first_draws % 2 == 0

    @property
    def max_draws(self) -> int:
        """The largest number of draws."""
        return self.draws or (EXACT_DRAWS if self.exact else MAX_DRAWS)
