"""CUDA graphs of a velocity: one graph per shape.

A network of some hundred small kernels keeps a GPU waiting for Python between two kernels. A captured graph is one
launch. `SlotPool` pads to few shapes, so that few graphs are needed, and `ModelRunner` captures them at the start.
"""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from enflow.model.flow.velocity import Velocity

WARM_UP = 2
"""Evaluations before a capture; libraries choose their algorithms and allocate memory in the first."""

log = logging.getLogger(__name__)


class CudaGraphs:
    """A velocity on a GPU that replays captured graphs; it has no derivatives.

    A graph reads and writes its own tensors, and the arguments are copied into them. The next evaluation overwrites the
    returned tensors: all graphs share one pool of memory for what lies between their inputs and outputs. If a shape
    cannot be captured, every later evaluation is eager, and the log says so once.
    """

    def __init__(self, velocity: Velocity) -> None:
        self._velocity = velocity
        self._graphs: dict[tuple[torch.Size, torch.Size], _CapturedGraph] = {}
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None
        self._captures = True

    def __call__(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        graph = self._graph(t, x, h, mask)
        return graph(t, x, h, mask) if graph else self._velocity(t, x, h, mask)

    @torch.inference_mode()
    def capture(self, shapes: Iterable[tuple[int, int]], n_features: int, dtype: torch.dtype) -> None:
        """Capture graphs for (rows, atoms); the largest comes first, so that the others fit into its memory.

        If the memory of the device ends, the log says so, and the other graphs are captured when they are needed.
        """
        try:
            for rows, n_atoms in sorted(shapes, key=lambda shape: -shape[0] * shape[1] ** 2):
                x = torch.zeros(rows, n_atoms, 3, dtype=dtype, device="cuda")
                self._graph(x[:, 0, 0], x, x.new_zeros(rows, n_atoms, n_features), x[..., 0] == 0)
        except torch.OutOfMemoryError as error:
            log.warning("the memory ended after %d graphs: %s", self.captured, str(error).partition("\n")[0])

    @property
    def captured(self) -> int:
        """The number of captured graphs."""
        return len(self._graphs)

    def clear(self) -> None:
        """Remove all graphs and free their memory."""
        self._graphs.clear()
        self._pool = None

    def _graph(self, *arguments: Tensor) -> "_CapturedGraph | None":
        shape = arguments[1].shape, arguments[2].shape
        if shape not in self._graphs and self._captures:  # a capture that runs out of memory leaves no entry
            try:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
                self._graphs[shape] = _CapturedGraph(self._velocity, arguments, self._pool, self._stream)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # a lost device raises again in the eager evaluation
                self._captures = False
                log.warning("the velocity is computed without CUDA graphs: %s", str(error).partition("\n")[0])
        return self._graphs.get(shape)


class _CapturedGraph:
    def __init__(self, velocity: Velocity, arguments: tuple[Tensor, ...], pool: Any, stream: torch.cuda.Stream) -> None:
        self._inputs = tuple(argument.clone() for argument in arguments)
        current = torch.cuda.current_stream()
        # A capture and its warm-up may not run on the default stream. Libraries keep memory for each stream.
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                velocity(*self._inputs)
        current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph, pool=pool, stream=stream):
                self._output = velocity(*self._inputs)
        finally:
            torch.cuda.set_stream(current)  # torch does not return from the stream of a capture that failed

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        for tensor, argument in zip(self._inputs, arguments, strict=True):
            tensor.copy_(argument)
        self._graph.replay()
        return self._output
