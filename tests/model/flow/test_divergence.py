"""The divergence of fields whose Jacobian is written down."""

import pytest
import torch
from torch import Tensor

from enflow.model.flow import divergence, dynamics
from enflow.model.flow.noise import generator
from tests.model.flow.fields import states
from tests.model.flow.small_networks import configs, perturbed

MATRIX = torch.randn(5, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def mixing(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """dx = t |h|^2 x + sum of h, dh = A h per atom: tr J = 3 (n - 1) t |h|^2 + n tr A, without drift."""
    real = mask[..., None]
    scale = (t * h.square().sum((1, 2)))[:, None, None]
    return scale * x, (h @ MATRIX.T + x.norm(dim=-1, keepdim=True)) * real


def trace(t: Tensor, h: Tensor, mask: Tensor) -> Tensor:
    n = mask.sum(1)
    return 3 * (n - 1) * t * h.square().sum((1, 2)) + n * MATRIX.trace()


def test_exact_is_the_trace_over_real_atoms_without_their_common_motion() -> None:
    x, h, mask = states([4, 1, 2], 5)
    t = torch.tensor([0.5, 1.0, 2.0]).double()
    for chunk, with_gradients in ((None, False), (7, False), (None, True)):
        with torch.set_grad_enabled(with_gradients):
            found = divergence.exact(mixing, t, x, h, mask, chunk)
        torch.testing.assert_close(found, trace(t, h, mask), rtol=1e-12, atol=1e-12)


def test_hutchinson_is_the_quadratic_form_of_its_probe() -> None:
    x, h, mask = states([3], 5)
    t, probe = torch.ones(1).double(), divergence.gaussian([generator(0, 0, "probe")], mask, 5)
    jacobian = torch.autograd.functional.jacobian(
        lambda y: torch.cat(mixing(t, y[..., :3], y[..., 3:], mask), -1), torch.cat([x, h], -1)
    ).reshape(24, 24)
    found = (divergence.velocity_and_vjp(mixing, t, x, h, mask, probe)[1] * probe).sum((1, 2))
    torch.testing.assert_close(found[0], probe.flatten() @ jacobian @ probe.flatten(), rtol=1e-12, atol=1e-12)
    value, pulled = divergence.velocity_and_vjp(mixing, t, x, h, mask, probe)
    torch.testing.assert_close(pulled.flatten(), jacobian.T @ probe.flatten(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value, torch.cat(mixing(t, x, h, mask), -1))


def waves(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """dx = 0, dh = sin(A h): tr J = sum over i of A_ii cos((A h)_i)."""
    return torch.zeros_like(x), torch.sin(h @ MATRIX.T)


@pytest.mark.parametrize(("t", "within"), [(0.5, 1e-3), (1.0, 1e-5)])
def test_the_mean_of_differences_over_all_signs_is_the_trace_for_any_known_velocity(t: float, within: float) -> None:
    h, known = (torch.randn(8, generator=generator(seed, 0, "h"), dtype=torch.float64) for seed in (0, 1))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 5)[:, None]
    probe = torch.cat([torch.zeros(32, 1, 3), signs], -1)
    x, h, known = torch.zeros(32, 1, 3).double(), h[:5].expand(32, 1, 5), known.expand(32, 1, 8)
    mask = torch.ones(32, 1, dtype=torch.bool)
    found = divergence.differences(waves, torch.full((32,), t).double(), x, h, mask, probe, known)
    expected = float((MATRIX.diagonal() * torch.cos(MATRIX @ h[0, 0])).sum())
    assert float(found.mean()) == pytest.approx(expected, abs=within)


def test_probes_have_the_second_moment_that_makes_the_estimate_unbiased() -> None:
    mask = torch.tensor([[True, True, False]])
    for draw in (divergence.rademacher, divergence.gaussian):
        source = generator(1, 0, "probe")
        probes = draw([source] * 4000, mask.expand(4000, 3), 2)[:, :2].flatten(1)
        moment = probes.T @ probes / 4000
        assert float((moment - torch.eye(10)).abs().max()) < 0.1  # 4 to 5 standard errors
    assert set(divergence.rademacher([generator(1, 0, "probe")], mask, 2)[0, :2].flatten().tolist()) == {-1.0, 1.0}


def test_a_probe_belongs_to_its_molecule() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    both = divergence.rademacher([generator(1, 0, "probe"), generator(1, 1, "probe")], mask, 2)
    alone = divergence.rademacher([generator(1, 0, "probe")], mask[:1, :2], 2)
    assert torch.equal(both[0, :2], alone[0])
    assert not both[0, 2].any()


@pytest.mark.parametrize("config", configs())
def test_the_trace_has_right_gradients_of_parameters_and_state(config: object) -> None:
    # torch 2.13 has wrong ones of layer norm through jvp, with right values.
    velocity = perturbed(dynamics.build(config)).requires_grad_(True)
    x, h, mask = states([3], config.n_features)
    t = torch.tensor([0.4]).double()
    moved = [*velocity.parameters(), h.requires_grad_(True)]
    directions = [torch.randn(p.shape, generator=generator(0, i, "test"), dtype=p.dtype) for i, p in enumerate(moved)]

    def trace() -> Tensor:
        return divergence.exact(velocity, t, x, h, mask).sum()

    gradients = torch.autograd.grad(trace(), moved, materialize_grads=True)
    slope = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    values = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for parameter, direction in zip(moved, directions, strict=True):
                parameter.add_(step * direction)
            values.append(trace().item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)
