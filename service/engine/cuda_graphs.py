"""A velocity whose kernels a GPU replays: one graph per shape, captured when the shape first comes.

A network of some hundred small kernels leaves a GPU waiting for Python between them; a captured graph is one launch.
`Pool` pads to few shapes, so that few graphs are needed.
"""

import torch
from torch import Tensor

from enflow.model.flow.velocity import Velocity

WARM_UP = 2
"""Evaluations before a capture: libraries choose their algorithms and allocate in the first."""


class CudaGraphs:
    """The same velocity, on a GPU; not for derivatives.

    A graph reads and writes tensors of its own, into which the arguments are copied. What is returned is overwritten
    by the next evaluation of that shape.
    """

    def __init__(self, velocity: Velocity) -> None:
        self._velocity = velocity
        self._graphs: dict[tuple[torch.Size, torch.Size], _Captured] = {}

    def __call__(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        shape = x.shape, h.shape
        if shape not in self._graphs:  # a capture that runs out of memory leaves no entry
            self._graphs[shape] = _Captured(self._velocity, (t, x, h, mask))
        return self._graphs[shape](t, x, h, mask)

    def forget(self) -> None:
        """Give the memory of all graphs back."""
        self._graphs.clear()


class _Captured:
    def __init__(self, velocity: Velocity, arguments: tuple[Tensor, ...]) -> None:
        self._arguments = tuple(argument.clone() for argument in arguments)
        # A capture may not run on the default stream, nor its warm-up.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                velocity(*self._arguments)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._answer = velocity(*self._arguments)

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        for mine, given in zip(self._arguments, arguments, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._answer
