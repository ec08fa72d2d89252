"""Captured graphs against the velocity they were captured from; only a GPU has them."""

import pytest
import torch

from enflow.service.engine.cuda_graphs import CudaGraphs
from tests.model.flow.small_networks import small_flow

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")


@torch.inference_mode()
def test_a_graph_gives_what_the_velocity_gives_at_every_shape_and_time() -> None:
    velocity = small_flow().cuda().velocity
    graphs = CudaGraphs(velocity)
    for rows, n_atoms, t in ((2, 5, 0.1), (4, 9, 0.2), (2, 5, 0.9)):
        x, h = torch.randn(rows, n_atoms, 3).double().cuda(), torch.randn(rows, n_atoms, 5).double().cuda()
        mask = torch.ones(rows, n_atoms, dtype=torch.bool, device="cuda")
        times = torch.full((rows,), t, dtype=torch.float64, device="cuda")
        torch.testing.assert_close(graphs(times, x, h, mask), velocity(times, x, h, mask))


@torch.inference_mode()
def test_graphs_that_were_cleared_are_captured_again() -> None:
    velocity = small_flow().cuda().velocity
    graphs = CudaGraphs(velocity)
    state = (
        torch.full((1,), 0.5, dtype=torch.float64, device="cuda"),
        torch.randn(1, 3, 3, dtype=torch.float64, device="cuda"),
        torch.randn(1, 3, 5, dtype=torch.float64, device="cuda"),
        torch.ones(1, 3, dtype=torch.bool, device="cuda"),
    )
    before = [part.clone() for part in graphs(*state)]
    graphs.clear()
    torch.testing.assert_close(list(graphs(*state)), before)
