"""The divergence of a velocity: exact, or estimated with a given probe.

The trace is taken over the subspace of zero centre of mass and the features. In the basis e_i - e_0 (i = 1 .. N-1, for
each axis) the coordinates are the positions of the atoms 1 .. N-1. This saves three products and holds for any velocity
without drift. The known response to rotations could save three more of 144 products for a typical molecule, but needs
an orthogonal basis per molecule.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.func import jvp, vjp, vmap

from enflow.model.flow.noise import padded_normal
from enflow.model.flow.velocity import Velocity, pack, packed

PRODUCT_PAIRS = 1 << 16
"""The number of pairs of atoms times directions in one product: 200 directions of a molecule of 18 atoms. A direction
costs twice as much with 16, since a product has an overhead of 60 ms, and with 800, which exceed the caches (8 layers
of 32 edge features)."""

STEP, FINEST_SCALE = 0.01, 0.03
"""The step of a difference relative to the width of the density at time t, sqrt((1 - t)^2 + FINEST_SCALE^2). Steps
between 0.005 and 0.02 serve: the error of a difference grows as its square, the noise of rounding as its inverse. With
0.01 the error of an integral was -0.06 to 0.03 nats (four test molecules of 9 to 25 atoms, bundled weights)."""


def exact(
    velocity: Velocity,
    t: Float[Tensor, " B"],
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    chunk: int | None = None,
) -> Float[Tensor, " B"]:
    """Return the trace of the Jacobian, tr d(dx, dh)/d(x, h), by one product per dimension; differentiable.

    Args:
        velocity: a velocity without drift: dx has zero mean over the real atoms. If it, or the object whose method it
            is, has a method `divergence`, that method is used.
        t, x, h, mask: times and states; the real atoms of a row come first.
        chunk: directions per product; None = as many as fit the caches.

    Returns:
        The trace over S (n - 1) + F n dimensions for a row of n atoms.
    """
    if known := getattr(getattr(velocity, "__self__", velocity), "divergence", None):
        found: Tensor = known(t, x, h, mask)
        return found
    y, real, n_dims = pack(x, h), mask[..., None], x.shape[-1]
    n_rows, n_atoms, width = y.shape
    axes = torch.arange(width, device=y.device) < n_dims

    def velocity_of(y: Tensor) -> Tensor:
        return packed(velocity, t, y, mask, n_dims)

    def entry(direction: Tensor) -> Tensor:  # (N, D), one-hot
        basis_vector = direction * real
        mean_shift = torch.where(axes, basis_vector.sum(1), 0.0)
        tangent = torch.cat([basis_vector[:, :1] - mean_shift[:, None], basis_vector[:, 1:]], 1)
        if torch.is_grad_enabled():
            # Gradients of the layer norm of torch 2.13 are wrong through jvp (pytorch issue 196700).
            pulled: Tensor = vjp(velocity_of, y)[1](basis_vector)[0]
            return (pulled * tangent).sum((1, 2))
        moved: Tensor = jvp(velocity_of, (y,), (tangent,))[1]
        return (moved * basis_vector).sum((1, 2))

    # The position of the first atom, the first n_dims entries, is no coordinate of the subspace.
    directions = torch.eye(n_atoms * width, dtype=y.dtype, device=y.device)[n_dims:].reshape(-1, n_atoms, width)
    chunk = chunk or max(1, PRODUCT_PAIRS // (n_rows * n_atoms**2))
    entries: Tensor = vmap(entry, chunk_size=chunk)(directions)
    return entries.sum(0)


def differences(
    velocity: Velocity,
    t: Float[Tensor, " B"],
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    probe: Float[Tensor, "B N D"],
    known: Float[Tensor, "B N D"],
) -> Float[Tensor, " B"]:
    """Return e^T (v(y + epsilon e) - v(y)) / epsilon, an estimate of the trace (Hutchinson, Commun. Stat. 18, 1989).

    e^T J e has the mean tr J if E[e e^T] = 1; the difference stands for the product J e.

    It takes one evaluation, a third of the time of a product, and no derivative. The signs e are symmetric, so that
    terms of even order in epsilon e have mean zero. An error of v(y) that does not depend on e has mean zero too. The
    third order remains as a bias (docs/science.md).

    Args:
        velocity, t, x, h, mask: see `exact`.
        probe: the signs e over positions and features, D = S + F, zero outside the mask.
        known: v(y) or an approximation.
    """
    epsilon = (STEP * ((1.0 - t).square() + FINEST_SCALE**2).sqrt())[:, None, None]
    y = pack(x, h)
    change = packed(velocity, t, y + epsilon * probe, mask, x.shape[-1]) - known
    return (change * probe / epsilon).sum((1, 2))


def velocity_and_vjp(
    velocity: Velocity,
    t: Float[Tensor, " B"],
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    probe: Float[Tensor, "B N D"],
) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"]]:
    """Return the packed velocity and the vector-Jacobian product J^T e; |J^T e|^2 estimates |J|^2."""
    value, pull_back = vjp(lambda y: packed(velocity, t, y, mask, x.shape[-1]), pack(x, h))[:2]
    pulled: Tensor = pull_back(probe)[0]
    return value, pulled


def rademacher(
    generators: Sequence[Generator], mask: Bool[Tensor, "B N"], n_features: int, n_dims: int = 3
) -> Float[Tensor, "B N D"]:
    """Return probes of random signs, one generator per molecule; the diagonal of J adds no variance."""
    return gaussian(generators, mask, n_features, n_dims).sign()


def gaussian(
    generators: Sequence[Generator], mask: Bool[Tensor, "B N"], n_features: int, n_dims: int = 3
) -> Float[Tensor, "B N D"]:
    """Return standard normal probes, one generator per molecule, float64 on the CPU."""
    return padded_normal(mask, n_dims + n_features, generators)
