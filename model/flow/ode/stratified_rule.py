"""A fixed rule for integrals along a path, from t = 1 to 0, whose integrand is noisy: stratified random times.

With t = 1 - s^2, the integral of g from t = 1 to 0 is - int_0^1 g(1 - s^2) 2 s ds. The interval is cut into strata,
and each gets two times that mirror each other at its centre, at a uniform random distance. The rule is unbiased for any
integrand, and what is linear within a stratum cancels. An adaptive rule would see the noise as curvature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

STEPS_SHARE = 0.5
"""The share of the strata that follows the density of the path's own steps. These are short where the velocity bends,
and the variance of a trace estimate is large at the same times; the rest is uniform in s."""

Values = Float64[np.ndarray, " _"]


@dataclass(frozen=True)
class StratifiedRule:
    """An integral that asks for its integrand at all `times` at once, two in each of K strata.

    Attributes:
        edges: (K + 1,) ends of the strata in s, from 0 to 1.
        offsets: (K,) uniform numbers in (0, 1), the distance of the two times from the centre in half widths.
        values: (2 K,) the integrand at `times`, once it is known.
    """

    edges: Values
    offsets: Values
    values: Values | None = None

    @classmethod
    def along(cls, steps: Sequence[float], offsets: Values) -> "StratifiedRule":
        """Return the rule for a path whose accepted steps end at these times; one stratum for each offset."""
        ends = np.unique(np.clip(np.sqrt(1.0 - np.clip([0.0, 1.0, *steps], 0.0, 1.0)), 0.0, 1.0))
        cumulative = STEPS_SHARE * np.linspace(0.0, 1.0, len(ends)) + (1.0 - STEPS_SHARE) * ends
        edges = np.interp(np.linspace(0.0, 1.0, len(offsets) + 1), cumulative, ends)
        return cls(edges, np.asarray(offsets, dtype=np.float64))

    @property
    def times(self) -> list[float]:
        """The times at which the integrand is wanted; empty when it is known."""
        return [] if self.values is not None else (1.0 - self._nodes() ** 2).tolist()

    def update(self, values: Sequence[float]) -> "StratifiedRule":
        """Return the rule with its integrand known at `times`."""
        return replace(self, values=np.asarray(values, dtype=np.float64))

    @property
    def value(self) -> float:
        """The integral from t = 1 to 0."""
        return float(self._terms().sum())

    @property
    def variance(self) -> float:
        """The variance of the integral over the noise of its integrand, from the differences within the strata.

        The slope that the neighbouring strata show is subtracted first, and the noise of that slope accounted for.
        """
        assert self.values is not None, "the integrand is not known yet"
        centres, widths = (self.edges[1:] + self.edges[:-1]) / 2, np.diff(self.edges)
        pairs = (self.values * 2.0 * self._nodes()).reshape(-1, 2)
        slope = np.gradient(pairs.mean(1)) / np.gradient(centres)
        residual = pairs[:, 1] - pairs[:, 0] - slope * self.offsets * widths
        share = 2.0 + (self.offsets * widths / (np.gradient(centres) * _neighbours(len(widths)))) ** 2
        return float((widths**2 * residual**2 / 2.0 / share).sum())

    @property
    def error(self) -> float:
        """The quadrature's own error: none, since the rule is unbiased."""
        return 0.0

    @property
    def path(self) -> list[tuple[float, float]]:
        """The points (t, integral from 1 to t) at the ends of the strata."""
        grown = np.cumsum([0.0, *self._terms().reshape(-1, 2).sum(1)])
        return list(zip((1.0 - self.edges**2).tolist(), grown.tolist(), strict=True))

    def _nodes(self) -> Values:
        centres, halves = (self.edges[1:] + self.edges[:-1]) / 2, np.diff(self.edges) / 2
        pairs = np.stack([centres - self.offsets * halves, centres + self.offsets * halves], 1)
        return pairs.reshape(-1)

    def _terms(self) -> Values:
        assert self.values is not None, "the integrand is not known yet"
        terms: Values = -self.values * 2.0 * self._nodes() * np.repeat(np.diff(self.edges) / 2, 2)
        return terms


def _neighbours(count: int) -> Values:
    """Return the number of strata between the two whose difference `np.gradient` takes: 1 at the ends, else 2."""
    return np.array([1.0, *[2.0] * (count - 2), 1.0])
