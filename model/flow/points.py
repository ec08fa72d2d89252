"""Molecules as points of flow space, which is what the ODE sees."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor


class Latent(NamedTuple):
    """One molecule as a point: under the base, where `encode` takes it, or dequantized, where it begins."""

    x: Float[Tensor, "N S"]
    h: Float[Tensor, "N F"]


class Lifted(NamedTuple):
    """Molecules with the log-densities of their way from data into flow space, nats."""

    x: Float[Tensor, "B N S"]
    h: Float[Tensor, "B N F"]
    mask: Bool[Tensor, "B N"]
    log_q: Float[Tensor, " B"]
    """Of the dequantized features."""
    ladj: Float[Tensor, " B"]
    """Of ActNorm, from data on."""

    def rows(self) -> list[tuple[Latent, float, float]]:
        """Each molecule without its padding, with its log_q and ladj."""
        points = [Latent(x[real], h[real]) for x, h, real in zip(self.x, self.h, self.mask, strict=True)]
        return list(zip(points, self.log_q.tolist(), self.ladj.tolist(), strict=True))
