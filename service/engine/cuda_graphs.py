"""CUDA graphs of a velocity: one graph per shape, captured when the shape first occurs.

A network of some hundred small kernels keeps a GPU waiting for Python between two kernels. A captured graph is one
launch. `SlotPool` pads to few shapes, so that few graphs are needed.
"""

import torch
from torch import Tensor

from enflow.model.flow.velocity import Velocity

WARM_UP = 2
"""Evaluations before a capture; libraries choose their algorithms and allocate memory in the first."""


class CudaGraphs:
    """A velocity on a GPU that replays captured graphs; it has no derivatives.

    A graph reads and writes its own tensors, and the arguments are copied into them. The next evaluation of the same
    shape overwrites the returned tensors.
    """

    def __init__(self, velocity: Velocity) -> None:
        self._velocity = velocity
        self._graphs: dict[tuple[torch.Size, torch.Size], _CapturedGraph] = {}

    def __call__(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        shape = x.shape, h.shape
        if shape not in self._graphs:  # a capture that runs out of memory leaves no entry
            self._graphs[shape] = _CapturedGraph(self._velocity, (t, x, h, mask))
        return self._graphs[shape](t, x, h, mask)

    def clear(self) -> None:
        """Remove all graphs and free their memory."""
        self._graphs.clear()


class _CapturedGraph:
    def __init__(self, velocity: Velocity, arguments: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(argument.clone() for argument in arguments)
        # A capture and its warm-up may not run on the default stream.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                velocity(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = velocity(*self._inputs)

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        for tensor, argument in zip(self._inputs, arguments, strict=True):
            tensor.copy_(argument)
        self._graph.replay()
        return self._output
