"""The divergence of a velocity: exact, or estimated with a given probe.

Positions live where the centre of mass is zero, so the trace is taken over that subspace and the features. In the
basis e_i - e_0 (i = 1 .. N-1, for each axis) its coordinates are simply those of the atoms 1 .. N-1, which saves three
products and holds for any velocity without drift. Knowing the response to rotations as well would save three more of
144 for a typical molecule, at the price of an orthogonal basis per molecule: not done.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.func import jvp, vjp, vmap

from enflow.model.flow.noise import padded_normal
from enflow.model.flow.velocity import Velocity, pack, packed

PAIRS = 1 << 16
"""Pairs of atoms in flight at once, 200 directions of a molecule of 18 atoms: with 16 each costs twice as much, since
a product has 60 ms of overhead; with 800 as well, being too large for the caches (8 layers of 32 edge features)."""


def exact(
    velocity: Velocity,
    t: Float[Tensor, " B"],
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    chunk: int | None = None,
) -> Float[Tensor, " B"]:
    """The trace of the Jacobian, tr d(dx, dh)/d(x, h), by one Jacobian-vector product per dimension; differentiable.

    Args:
        velocity: a dynamics without drift: dx has zero mean over the real atoms. One that knows its divergence, as a
            method of that name, is asked for it, also through a flow whose method the velocity is.
        t, x, h, mask: times and states; the real atoms of a row come first.
        chunk: directions per product, where there are any; None chooses by the size of the cache.

    Returns:
        (B,), the trace over S (n - 1) + F n dimensions for a row of n atoms.
    """
    if known := getattr(getattr(velocity, "__self__", velocity), "divergence", None):
        found: Tensor = known(t, x, h, mask)
        return found
    y, real, n_dims = pack(x, h), mask[..., None], x.shape[-1]
    n_rows, n_atoms, width = y.shape
    axes = torch.arange(width, device=y.device) < n_dims

    def velocity_of(y: Tensor) -> Tensor:
        return packed(velocity, t, y, mask, n_dims)

    def entry(direction: Tensor) -> Tensor:  # (N, D), one where it points
        wanted = direction * real
        opposite = torch.where(axes, wanted.sum(1), 0.0)
        tangent = torch.cat([wanted[:, :1] - opposite[:, None], wanted[:, 1:]], 1)
        if torch.is_grad_enabled():
            # Gradients of the trace: those of torch's layer norm are wrong through jvp (pytorch issue 196700, 2.13).
            pulled: Tensor = vjp(velocity_of, y)[1](wanted)[0]
            return (pulled * tangent).sum((1, 2))
        moved: Tensor = jvp(velocity_of, (y,), (tangent,))[1]
        return (moved * wanted).sum((1, 2))

    # The positions of the first atom, the first n_dims, only ever move against another's.
    directions = torch.eye(n_atoms * width, dtype=y.dtype, device=y.device)[n_dims:].reshape(-1, n_atoms, width)
    chunk = chunk or max(1, PAIRS // (n_rows * n_atoms**2))
    entries: Tensor = vmap(entry, chunk_size=chunk)(directions)
    return entries.sum(0)


def hutchinson(
    velocity: Velocity,
    t: Float[Tensor, " B"],
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    probe: Float[Tensor, "B N D"],
) -> Float[Tensor, " B"]:
    """The estimate e^T J e, unbiased where E[e e^T] = 1 (Hutchinson, Commun. Stat. 18, 1989).

    Args:
        velocity, t, x, h, mask: as for `exact`.
        probe: the noise e over positions and features, D = S + F, zero outside the mask.
    """
    return (pulled_back(velocity, t, x, h, mask, probe)[1] * probe).sum((1, 2))


def pulled_back(
    velocity: Velocity,
    t: Float[Tensor, " B"],
    x: Float[Tensor, "B N S"],
    h: Float[Tensor, "B N F"],
    mask: Bool[Tensor, "B N"],
    probe: Float[Tensor, "B N D"],
) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"]]:
    """The packed velocity and J^T e, the probe e pulled back by its Jacobian; |J^T e|^2 estimates |J|^2."""
    value, pull_back = vjp(lambda y: packed(velocity, t, y, mask, x.shape[-1]), pack(x, h))[:2]
    pulled: Tensor = pull_back(probe)[0]
    return value, pulled


def rademacher(
    generators: Sequence[Generator], mask: Bool[Tensor, "B N"], n_features: int, n_dims: int = 3
) -> Float[Tensor, "B N D"]:
    """Probes of random signs, one generator per molecule: the diagonal of J adds nothing to their variance."""
    return gaussian(generators, mask, n_features, n_dims).sign()


def gaussian(
    generators: Sequence[Generator], mask: Bool[Tensor, "B N"], n_features: int, n_dims: int = 3
) -> Float[Tensor, "B N D"]:
    """Standard normal probes, one generator per molecule; float64 on the CPU."""
    return padded_normal(mask, n_dims + n_features, generators)
