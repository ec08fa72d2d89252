"""Laws that every dynamics keeps, each a function of one; `tests/model/flow/test_laws.py` runs them."""

import torch
from torch import Tensor

from enflow.model.chem.molecule import Molecule
from enflow.model.flow import divergence
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.flow.velocity import Velocity, packed
from tests.model.flow.fields import states

TOLERANCE = 1e-9


def rotation(seed: int, reflect: bool, n_dims: int = 3) -> Tensor:
    """A random rotation, or one with a reflection."""
    source = torch.Generator().manual_seed(seed)
    matrix = torch.linalg.qr(torch.randn(n_dims, n_dims, generator=source, dtype=torch.float64))[0]
    matrix[:, 0] *= torch.sign(torch.linalg.det(matrix)) * (-1.0 if reflect else 1.0)
    return matrix


def close(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def turns_with_rotations_and_reflections(velocity: Velocity, n_features: int, n_dims: int = 3) -> None:
    x, h, mask = states([5, 3], n_features, n_dims=n_dims)
    t = torch.tensor([0.3, 0.8]).double()
    dx, dh = velocity(t, x, h, mask)
    assert dx.abs().max() > 1e-3, "a velocity of zero keeps every law"
    for reflect in (False, True):
        turn = rotation(1, reflect, n_dims)
        close(velocity(t, x @ turn, h, mask), (dx @ turn, dh))


def ignores_translations(velocity: Velocity, n_features: int, n_dims: int = 3) -> None:
    x, h, mask = states([5, 3], n_features, n_dims=n_dims)
    t = torch.tensor([0.3, 0.8]).double()
    shift = torch.tensor([0.7, -1.1, 0.4][:n_dims]).double() * mask[..., None]
    close(velocity(t, x + shift, h, mask), velocity(t, x, h, mask))


def permutes_with_its_atoms(velocity: Velocity, n_features: int, n_dims: int = 3) -> None:
    x, h, mask = states([5], n_features, n_dims=n_dims)
    t, order = torch.tensor([0.6]).double(), torch.tensor([3, 0, 4, 1, 2])
    dx, dh = velocity(t, x, h, mask)
    close(velocity(t, x[:, order], h[:, order], mask), (dx[:, order], dh[:, order]))


def ignores_padding_and_company(velocity: Velocity, n_features: int, n_dims: int = 3) -> None:
    t = torch.tensor([0.2, 0.9]).double()
    x, h, mask = states([4, 2], n_features, width=7, n_dims=n_dims)
    dx, dh = velocity(t, x, h, mask)
    for row, n in enumerate((4, 2)):
        only = (slice(row, row + 1), slice(n))
        close((dx[only], dh[only]), velocity(t[row : row + 1], x[only], h[only], mask[only]))
        assert not dx[row, n:].any()
        assert not dh[row, n:].any()


def has_no_drift(velocity: Velocity, n_features: int, n_dims: int = 3) -> None:
    x, h, mask = states([6, 1, 3], n_features, n_dims=n_dims)
    dx, _ = velocity(torch.tensor([0.0, 0.5, 1.0]).double(), x, h, mask)
    assert dx.sum(1).abs().max() < TOLERANCE


def divergence_is_the_trace(velocity: Velocity, n_features: int, n_dims: int = 3) -> None:
    x, h, mask = states([3, 1], n_features, n_dims=n_dims)
    t = torch.tensor([0.1, 0.9]).double()
    y = torch.cat([x, h], -1)
    jacobian = torch.autograd.functional.jacobian(lambda y: packed(velocity, t, y, mask, n_dims), y)
    trace = [jacobian[row, :, :, row].reshape(y[row].numel(), -1).trace() for row in range(2)]
    for with_gradients in (True, False):  # the two ways of taking products
        with torch.set_grad_enabled(with_gradients):
            found = divergence.exact(velocity, t, x, h, mask, chunk=10)
        torch.testing.assert_close(found, torch.stack(trace), rtol=TOLERANCE, atol=TOLERANCE)


def decodes_what_it_encodes(flow: MoleculeFlow, molecules: list[Molecule]) -> None:
    latents = flow.encode(molecules, seed=3, rtol=1e-8, atol=1e-8)
    for before, after in zip(molecules, flow.decode(latents, rtol=1e-8, atol=1e-8), strict=True):
        assert after.atomic_numbers.tolist() == before.atomic_numbers.tolist()
        assert abs(after.positions - before.centred().positions).max() < 1e-5


def scores_a_molecule_the_same_however_it_lies(flow: MoleculeFlow, molecules: list[Molecule]) -> None:
    turn = rotation(4, reflect=True).numpy()
    turned = [Molecule(one.atomic_numbers, one.positions @ turn + [3.0, -1.0, 2.0]) for one in molecules]
    for one, other in zip(flow.log_prob(molecules, seed=5), flow.log_prob(turned, seed=5), strict=True):
        assert abs(one.log_prob - other.log_prob) < 1e-6, "at the standard tolerance of 1e-3"


def particles_come_back(flow: ParticleFlow, x: Tensor) -> None:
    latents = flow.encode(x, 1e-8, 1e-8)
    assert (latents - x).abs().max() > 1e-3, "a flow that moves nothing comes back too"
    assert (flow.decode(latents, 1e-8, 1e-8) - (x - x.mean(1, keepdim=True))).abs().max() < 1e-5


def particles_score_the_same_however_they_lie(flow: ParticleFlow, x: Tensor) -> None:
    turned = x @ rotation(4, reflect=True, n_dims=x.shape[-1]) + 3.0
    torch.testing.assert_close(flow.log_prob(turned), flow.log_prob(x), rtol=0, atol=1e-6)


EVERY = [permutes_with_its_atoms, ignores_padding_and_company, has_no_drift, divergence_is_the_trace]
EQUIVARIANT = [turns_with_rotations_and_reflections, ignores_translations]
"""Kept by a dynamics that declares itself `equivariant`."""
FLOW = [decodes_what_it_encodes]
EQUIVARIANT_FLOW = [scores_a_molecule_the_same_however_it_lies]
PARTICLE_FLOW = [particles_come_back]
EQUIVARIANT_PARTICLE_FLOW = [particles_score_the_same_however_they_lie]
