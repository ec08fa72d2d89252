"""Linear maps and elementwise operations that are faster at inference, when no derivative is taken.

At inference an operation may overwrite its operand, which saves a pass through the cache, and oneDNN may multiply
matrices. On an AMD EPYC oneDNN is 2.2 times as fast as MKL, which does not use the wide registers of processors that
are not by Intel (64 x 64 on 3,000 rows: 232 against 109 GFLOP/s of one thread).
"""

import os

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

LARGE = 1 << 15
"""The smallest number of inputs for oneDNN, whose call takes 10 microseconds longer."""

CACHED_KERNELS = 32
"""Kernels that oneDNN keeps, each for one shape of its operands: enough for a network at four shapes. A kernel takes a
millisecond to make and half a megabyte or more, and every number of rows is a shape: the 1,024 kernels that oneDNN
keeps by itself took 0.6 GB in an engine."""

for _variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # read at the first call of the operation
    os.environ.setdefault(_variable, str(CACHED_KERNELS))

_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""True if this build of torch has the operation, which is no public interface; otherwise `linear` is used."""


def is_inference() -> bool:
    """Return True if gradients, functorch transforms and compilation are all off."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return not torch._C._are_functorch_transforms_active()  # noqa: SLF001 - as torch.autograd.Function asks


def apply_linear(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """Return the layer applied to its inputs, in their dtype, as a new tensor."""
    return linear_map(inputs, layer.weight, layer.bias)


def linear_map(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return inputs @ weight.T + bias in the dtype of the inputs, as a new tensor."""
    if _ONEDNN and is_inference() and inputs.numel() >= LARGE and len(weight) > 1 and _float32_on_cpu(inputs, weight):
        return _onednn(inputs, weight, bias)
    return linear(inputs, weight.to(inputs.dtype), bias if bias is None else bias.to(inputs.dtype))


def silu_inplace(values: Tensor) -> Tensor:
    """Return silu(values); at inference the values are overwritten."""
    return silu(values, inplace=is_inference())


def multiply_inplace(values: Tensor, factor: Tensor) -> Tensor:
    """Return values * factor; at inference the values are overwritten."""
    return values.mul_(factor) if is_inference() else values * factor


def add_inplace(values: Tensor, increment: Tensor) -> Tensor:
    """Return values + increment; at inference the values are overwritten."""
    return values.add_(increment) if is_inference() else values + increment


def _float32_on_cpu(*operands: Tensor) -> bool:
    return all(operand.dtype == torch.float32 and operand.is_cpu for operand in operands)


def _onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")  # noqa: SLF001
    return result
