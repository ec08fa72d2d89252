"""Captured graphs against the velocity they were captured from, where there is a GPU; and the eager way out."""

import pytest
import torch

from enflow.service.engine import cuda_graphs
from enflow.service.engine.cuda_graphs import CudaGraphs
from tests.model.flow.small_networks import small_flow

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")


class Uncapturable:
    """A capture that fails as it does for an operation that waits for the device."""

    tried = 0

    def __init__(self, *_: object) -> None:
        type(self).tried += 1
        raise RuntimeError("operation not permitted when stream is capturing\nand a stack trace")


def full(*_: object) -> None:
    raise torch.OutOfMemoryError("the device is full")


@torch.inference_mode()
def test_a_velocity_that_cannot_be_captured_is_computed_eagerly_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_graphs, "_CapturedGraph", Uncapturable)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "Stream", object)
    velocity = small_flow().velocity
    graphs = CudaGraphs(velocity)
    for rows in (1, 2, 3):
        x, h = torch.randn(rows, 4, 3).double(), torch.randn(rows, 4, 5).double()
        state = torch.full((rows,), 0.5).double(), x, h, torch.ones(rows, 4, dtype=torch.bool)
        torch.testing.assert_close(graphs(*state), velocity(*state), rtol=0, atol=0)
    assert (Uncapturable.tried, graphs.captured) == (1, 0)
    (record,) = caplog.records
    assert record.getMessage().endswith("operation not permitted when stream is capturing")
    monkeypatch.setattr(cuda_graphs, "_CapturedGraph", full)
    with pytest.raises(torch.OutOfMemoryError):  # the engine then halves its steps
        CudaGraphs(velocity)(*state)


@needs_gpu
@torch.inference_mode()
def test_a_graph_gives_what_the_velocity_gives_at_every_shape_and_time() -> None:
    velocity = small_flow().cuda().velocity
    graphs = CudaGraphs(velocity)
    for rows, n_atoms, t in ((2, 5, 0.1), (4, 9, 0.2), (2, 5, 0.9)):
        x, h = torch.randn(rows, n_atoms, 3).double().cuda(), torch.randn(rows, n_atoms, 5).double().cuda()
        mask = torch.ones(rows, n_atoms, dtype=torch.bool, device="cuda")
        times = torch.full((rows,), t, dtype=torch.float64, device="cuda")
        torch.testing.assert_close(graphs(times, x, h, mask), velocity(times, x, h, mask))


@needs_gpu
@torch.inference_mode()
def test_graphs_captured_at_the_start_share_their_memory_and_keep_their_results() -> None:
    velocity = small_flow().cuda().velocity
    graphs, shapes = CudaGraphs(velocity), [(2, 5), (8, 5), (4, 9)]
    graphs.capture(shapes, 5, torch.float64)
    for rows, n_atoms in [*shapes, *reversed(shapes)]:
        x, h = torch.randn(rows, n_atoms, 3).double().cuda(), torch.randn(rows, n_atoms, 5).double().cuda()
        state = x.new_full((rows,), 0.3), x, h, torch.ones(rows, n_atoms, dtype=torch.bool, device="cuda")
        torch.testing.assert_close(graphs(*state), velocity(*state))
    assert len(graphs._graphs) == 3


@needs_gpu
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
