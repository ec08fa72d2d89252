"""Linear maps and elementwise operations as fast as the situation allows.

Where nobody differentiates, the result of an operation may lie where its operand lay, which saves a pass through the
cache, and oneDNN may multiply matrices: on processors that are not Intel's it is 2.2 times as fast as MKL, which does
not use their wide registers (64 x 64 on 3,000 rows, AMD EPYC: 232 against 109 GFLOP/s of one thread).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

LARGE = 1 << 15
"""Numbers from which on oneDNN is worth its call, which takes 10 microseconds longer."""

_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Torch offers it to its compiler only; without it its own product serves."""


def plain() -> bool:
    """Whether nobody differentiates, batches or compiles what is computed now."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return not torch._C._are_functorch_transforms_active()  # noqa: SLF001 - as torch.autograd.Function asks


def linear_in(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """The layer applied, in the dtype of its inputs; a new tensor."""
    return product(inputs, layer.weight, layer.bias)


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """inputs @ weight.T + bias, in the dtype of the inputs; a new tensor."""
    if _ONEDNN and plain() and inputs.numel() >= LARGE and len(weight) > 1 and _single(inputs, weight):
        return _onednn(inputs, weight, bias)
    return linear(inputs, weight.to(inputs.dtype), bias if bias is None else bias.to(inputs.dtype))


def activated(values: Tensor) -> Tensor:
    """silu of values that are not needed any more."""
    return silu(values, inplace=plain())


def scaled(values: Tensor, factor: Tensor) -> Tensor:
    """values * factor, of values that are not needed any more."""
    return values.mul_(factor) if plain() else values * factor


def increased(values: Tensor, increment: Tensor) -> Tensor:
    """values + increment, of values that are not needed any more."""
    return values.add_(increment) if plain() else values + increment


def _single(*operands: Tensor) -> bool:
    return all(operand.dtype == torch.float32 and operand.is_cpu for operand in operands)


def _onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")  # noqa: SLF001
    return product
