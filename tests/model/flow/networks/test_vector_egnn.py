"""Bounds of the vector network: no weights move an atom too far."""

import math

import torch

from enflow.model.flow import dynamics
from enflow.model.flow.networks.vector_egnn import MAX_MOVE, bounded
from tests.model.flow.small_networks import VECTORS, shaken


def test_bounded_vectors_keep_their_direction_and_short_ones_their_length():
    vectors = torch.tensor([[[3e-4, 4.0, 3e8], [0.0, 3.0, 4e8]]]).double()  # (1, D = 2, K = 3)
    found = bounded(vectors, 5.0)
    lengths = found.norm(dim=-2)[0].tolist()
    assert math.isclose(lengths[0], 3e-4, rel_tol=1e-7)
    assert math.isclose(lengths[1], 5.0 / math.sqrt(2.0), rel_tol=1e-12), "5 / sqrt(1 + (5 / 5)^2)"
    assert math.isclose(lengths[2], 5.0, rel_tol=1e-12)
    torch.testing.assert_close(found / found.norm(dim=-2, keepdim=True), vectors / vectors.norm(dim=-2, keepdim=True))


def test_no_weights_move_an_atom_farther_than_every_layer_may():
    velocity = shaken(dynamics.build(VECTORS))
    for layer in velocity.network.layers:
        layer.collect.weight.data *= 1e4
        layer.moves.weight.data *= 1e4
    x = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(1)).double() * 0.1
    dx, _ = velocity(torch.full((4,), 0.1).double(), x, torch.zeros(4, 7, 5).double(), torch.ones(4, 7, dtype=bool))
    assert 1.0 < dx.norm(dim=-1).max() < 2 * MAX_MOVE * VECTORS.n_layers, "an atom's move less that of the centre"
