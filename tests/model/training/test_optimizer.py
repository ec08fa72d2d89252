"""Muon against that of PyTorch, the effect of its iteration on singular values, and skipped gradients."""

import pytest
import torch
from torch import nn

from enflow.model.training.optimizer import Muon, Optimizer, OptimizerConfig, orthogonal

SHAPES = [(6, 24), (6, 24), (24, 6), (16, 16)]


def matrices() -> list[nn.Parameter]:
    source = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=source)) for shape in SHAPES]


def test_muon_moves_matrices_as_pytorch_s_does():
    parameters, expected, before = matrices(), matrices(), matrices()
    muon = Muon(parameters, lr=0.02, weight_decay=0.5)
    reference = torch.optim.Muon(expected, lr=0.02, momentum=0.95, weight_decay=0.5, adjust_lr_fn="original")
    source = torch.Generator().manual_seed(1)
    for _ in range(4):
        for one, other in zip(parameters, expected, strict=True):
            one.grad = torch.randn(one.shape, generator=source)
            other.grad = one.grad.clone()
        muon.step()
        reference.step()
    for one, other, start in zip(parameters, expected, before, strict=True):
        moved = (other - start).norm()
        assert moved > 0.05
        assert (one - other).norm() < 0.06 * moved, "that of PyTorch iterates in bfloat16"


@pytest.mark.parametrize(("capability", "dtype"), [("AVX2", torch.float32), ("AVX512", torch.bfloat16)])
def test_the_iteration_runs_in_bfloat16_only_where_that_is_fast(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    found = orthogonal(torch.eye(4).expand(2, 4, 4))
    assert found.dtype == dtype
    assert found.float().diagonal(dim1=-2, dim2=-1).allclose(found[0, 0, 0].float())
    assert 0.6 < found[0, 0, 0] < 1.3


def test_a_matrix_without_gradient_stays():
    parameters, before = matrices(), matrices()
    parameters[0].grad = torch.ones(SHAPES[0])
    Muon(parameters, lr=0.02).step()
    assert not torch.equal(parameters[0], before[0])
    assert torch.equal(parameters[1], before[1])


def test_the_iteration_keeps_singular_vectors_and_evens_singular_values():
    source = torch.Generator().manual_seed(2)
    tall = torch.randn(3, 20, 8, generator=source)
    for stack in (tall, tall.mT):
        found = orthogonal(stack).float()
        assert found.shape == stack.shape
        values = torch.linalg.svdvals(found)
        assert 0.6 < values.min() < values.max() < 1.3
        u, _, vt = torch.linalg.svd(stack, full_matrices=False)
        assert (found - u @ vt).norm() < 0.35 * (u @ vt).norm()


class Layers(nn.Module):
    """A hidden matrix and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Module()
        self.network.layers = nn.ModuleList([nn.Linear(4, 4)])


def stepped(optimizer: Optimizer, network: nn.Module, length: float) -> bool:
    """Return True if a step along a gradient of about this length moves the parameters."""
    before = [p.detach().clone() for p in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, length / 20**0.5)
    optimizer.step(1.0)
    return any(not torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))


def test_an_unusually_long_or_non_finite_gradient_is_skipped():
    network = Layers()
    optimizer = Optimizer(network, OptimizerConfig())
    assert all(stepped(optimizer, network, length) for length in (1.0, 3.0, 0.5))
    for length in (1e3, 1e18, float("inf"), float("nan")):
        assert not stepped(optimizer, network, length)
    assert stepped(optimizer, network, 2.0)


def test_gradients_that_stay_long_are_followed_after_a_while_also_after_resuming():
    network = Layers()
    optimizer = Optimizer(network, OptimizerConfig())
    stepped(optimizer, network, 1.0)
    refused = sum(not stepped(optimizer, network, 20.0) for _ in range(10))
    assert refused == 10
    resumed = Optimizer(network, OptimizerConfig())
    resumed.load_state_dict(optimizer.state_dict())
    moved = [stepped(resumed, network, 20.0) for _ in range(60)]
    assert not moved[0]
    assert moved[-1]
