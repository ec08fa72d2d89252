"""The fast ways of computing give what the plain ones give, and stay out of the way of derivatives."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jvp, vmap

from enflow.model.flow.networks.inference_ops import (
    LARGE,
    add_inplace,
    apply_linear,
    is_inference,
    multiply_inplace,
    silu_inplace,
)
from tests.memory import resident

ROWS = LARGE // 16 + 5


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("rows", [3, ROWS])
@pytest.mark.parametrize("bias", [True, False])
def test_a_mapping_is_the_matrix_product(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(16, 8, bias=bias), torch.randn(rows, 16)
    expected = x.double().numpy() @ layer.weight.detach().double().numpy().T
    if bias:
        expected = expected + layer.bias.detach().double().numpy()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            np.testing.assert_allclose(apply_linear(layer, x).detach().numpy(), expected, atol=1e-5)
    with torch.inference_mode():
        np.testing.assert_allclose(apply_linear(layer, x.reshape(1, rows, 16)).numpy()[0], expected, atol=1e-5)


def test_a_mapping_takes_the_precision_of_its_inputs() -> None:
    layer, x = nn.Linear(16, 8), torch.randn(ROWS, 16)
    with torch.no_grad():
        assert apply_linear(layer, x.double()).dtype == torch.float64
        assert apply_linear(layer, x.bfloat16()).dtype == torch.bfloat16


def test_values_are_overwritten_only_where_nobody_differentiates() -> None:
    values, factor = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    for operation, expected in (
        (silu_inplace, silu(values.numpy())),
        (lambda v: multiply_inplace(v, factor), values.numpy() * factor.numpy()),
        (lambda v: add_inplace(v, factor), values.numpy() + factor.numpy()),
    ):
        kept, lost = values.clone(), values.clone()
        np.testing.assert_allclose(operation(kept).numpy(), expected, rtol=1e-12)
        assert torch.equal(kept, values)
        with torch.no_grad():
            np.testing.assert_allclose(operation(lost).numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(lost.numpy(), expected, rtol=1e-12)


def test_derivatives_by_transforms_are_those_of_the_formula() -> None:
    layer = nn.Linear(3, 3).double()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    x, directions = torch.randn(7, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)

    def layered(x: torch.Tensor) -> torch.Tensor:
        assert not is_inference()
        return add_inplace(multiply_inplace(silu_inplace(apply_linear(layer, x)), x), x)

    with torch.no_grad():
        found = vmap(lambda d: jvp(layered, (x,), (d.expand_as(x),))[1])(directions)
    pre = x.numpy() @ weight.T + bias
    gate = 1 / (1 + np.exp(-pre))
    slope = gate * (1 + pre * (1 - gate))
    for k, one in enumerate(found.numpy()):
        moved = np.eye(3)[k]
        np.testing.assert_allclose(one, slope * weight[:, k] * x.numpy() + silu(pre) * moved + moved, rtol=1e-9)


def test_the_memory_does_not_grow_with_the_number_of_shapes() -> None:
    """Every number of rows is a shape of its own; without a limit oneDNN keeps a kernel for each, 0.5 MB or more."""
    layer = nn.Linear(64, 64)
    with torch.inference_mode():
        apply_linear(layer, torch.ones(8_600, 64))
        before = resident()
        for rows in range(600, 8_600, 20):
            apply_linear(layer, torch.ones(rows, 64))
    assert resident() - before < 250_000_000
