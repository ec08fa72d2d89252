"""The matrix products of a velocity, repeated alone: the limit of its speed on a processor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Products(TorchDispatchMode):
    """A dispatch mode that records the operands of all products of two matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.operands.append(args[-2:])
        return function(*args, **(kwargs or {}))


def matrix_products(evaluate: Callable[[], object]) -> Callable[[], None]:
    """Return a function that repeats the matrix products of `evaluate`, each as one call of `torch.mm`."""
    with torch.enable_grad(), Products() as seen:  # without gradients another operation multiplies
        evaluate()
    ready = [(a.detach(), b.detach(), torch.empty(len(a), b.shape[1])) for a, b in seen.operands]

    def repeat() -> None:
        for a, b, out in ready:
            torch.mm(a, b, out=out)

    return repeat
