"""Dormand-Prince: its order, and the growth of small errors from data on."""

import math

import pytest
import torch
from torch import Tensor

from enflow.model.flow.ode.methods import DORMAND_PRINCE, solve_rows
from tests.model.flow.ode.fixed_steps import fixed_steps


def test_fifth_order_and_its_dense_output_of_fourth() -> None:
    coarse, fine = fixed_steps(DORMAND_PRINCE, 16), fixed_steps(DORMAND_PRINCE, 32)
    assert 4.7 < math.log2(coarse[0] / fine[0]) < 6.0
    assert 4.5 < math.log2(coarse[1] / fine[1]) < 6.0  # fourth order: the error within a step is of its fifth power


@pytest.mark.parametrize("width", [0.01, 0.005])
@pytest.mark.parametrize("size", [1e-3, 1e-4])
def test_the_growth_of_a_small_component_near_t_1_is_not_missed(width: float, size: float) -> None:
    """dx/dt = -x / sqrt((1 - t)^2 + w^2) multiplies x by exp(arsinh(1 / w)); long steps give 0.6 to 0.8 of it."""

    def velocity(t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return -x / torch.hypot(1.0 - t, torch.full_like(t, width))[:, None, None], torch.zeros_like(h)

    x = size * torch.tensor([[[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]], dtype=torch.float64)
    h, mask = torch.full((1, 2, 5), 2.0, dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    end = solve_rows(DORMAND_PRINCE, velocity, x, h, mask, (1.0, 0.0), (1e-4, 1e-4))
    torch.testing.assert_close(end.x, x * math.exp(math.asinh(1.0 / width)), rtol=2e-3, atol=0.0)
