"""The exact trace of a network's velocity, by tangents that its layers move on."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vmap

from enflow.model.flow.exact_trace.layers import Push, Tangents, egnn_layer, vector_layer
from enflow.model.flow.exact_trace.ops import Distances, through_norm
from enflow.model.flow.geometry import pair_mask
from enflow.model.flow.networks.egnn import EGNN
from enflow.model.flow.networks.vector_egnn import VectorEGNN

PAIRS = 1 << 14
"""Pairs times directions in flight: more leave the cache, fewer pay for the calls."""

ATOMS = 2500
"""Atoms times directions of the molecules that go together."""

WIDER = 64
"""How many times as much a GPU takes at once; that is not measured yet."""


Together = Callable[[Tensor, Tensor], Tensor]


def trace(
    network: EGNN | VectorEGNN,
    inputs: Tensor,
    x: Tensor,
    h: Tensor,
    mask: Tensor,
    output: Callable[..., Tensor],
    together: Together | None = None,
) -> Tensor:
    """The trace of the Jacobian of (centre(x_out - x), output(h, outputs)) over its space, (B,).

    Args:
        network: (inputs (B, N, I), x, pairs) -> (outputs, x_out); the first inputs are the features.
        x, h, mask: (B, N, D), (B, N, F), (B, N); the real atoms come first. Of features that stand still give none.
        output: (rows, h, outputs) -> the features' velocity of these rows, atom by atom.
        together: (outputs, mask) -> outputs, what is done to those of all atoms before; None: nothing.
    """
    n_atoms, width = x.shape[1], x.shape[2] + h.shape[2]
    at_once = max(1, _room(x, ATOMS) // (n_atoms**2 * width))
    rows = [slice(start, start + at_once) for start in range(0, len(x), at_once)]
    return torch.cat(
        [_trace(network, inputs[r], x[r], h[r], mask[r], lambda *of, r=r: output(r, *of), together) for r in rows]
    )


def _trace(
    network: EGNN | VectorEGNN,
    inputs: Tensor,
    x: Tensor,
    h: Tensor,
    mask: Tensor,
    output: Callable[..., Tensor],
    together: Together | None,
) -> Tensor:
    # Every atom but the first moves against the first, as in `divergence.exact`.
    real = mask.to(x.dtype)[..., None, None]
    own_x, own_h = _own(x, skip=x.shape[-1]) * real, _own(h) * real
    dx = torch.cat([own_x[:, :1] - own_x.sum(1, keepdim=True), own_x[:, 1:]], 1)
    s, ds, moved = _through(network, inputs, x, mask, dx, own_h)

    dv = (moved - dx) * real
    dv = dv - dv.sum(1, keepdim=True) / real.sum(1, keepdim=True)
    entries = (dv * own_x).sum((1, 2, 3))
    if not h.shape[-1]:
        return entries
    n_features = h.shape[2]
    assert network.readout is not None, "features that move are read out"
    if together is None:  # an atom's outputs matter to that atom alone
        ds = _diagonal(ds, n_features)
    outputs, directions = network.readout(network.norm(s)), torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    moves = through_norm(network.norm, s)(ds) @ network.readout.weight.mT
    if together is not None:
        moves = vmap(lambda move: jvp(lambda o: together(o, mask), (outputs,), (move,))[1], 2, 2)(moves)
        outputs, moves = together(outputs, mask), _diagonal(moves, n_features)

    def entry(direction: Tensor, move: Tensor) -> Tensor:
        velocity: Tensor = jvp(output, (h, outputs), (direction.expand_as(h), move))[1]
        return velocity @ direction

    return entries + (vmap(entry, in_dims=(0, 2))(directions, moves) * mask).sum((0, 2))


def _diagonal(moves: Tensor, n_features: int) -> Tensor:
    """Of what moves by each feature of each atom, (B, N, N F, S), what moves by the atom's own: (B, N, F, S)."""
    b, n = moves.shape[:2]
    return moves.view(b, n, n, n_features, -1).diagonal(dim1=1, dim2=2).permute(0, 3, 1, 2)


def _room(x: Tensor, amount: int) -> int:
    return amount if x.device.type == "cpu" else WIDER * amount


def _own(values: Tensor, skip: int = 0) -> Tensor:
    """(B, N, F) -> the directions of each value but the first `skip`, (1, N, N F - skip, F)."""
    n_atoms, width = values.shape[1:]
    every = torch.eye(n_atoms * width, dtype=values.dtype, device=values.device)[skip:]
    return every.view(1, len(every), n_atoms, width).transpose(1, 2)


def _through(
    network: EGNN | VectorEGNN, inputs: Tensor, x: Tensor, mask: Tensor, dx: Tensor, dh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The features at the end, and tangents: of theirs as the features h move, of the positions' as those move."""
    pairs, start = pair_mask(mask).to(x.dtype), Distances.of(x, network.basis)
    b, n, n_moves = dx.shape[:3]
    still_x, still_h = dx.new_zeros(b, n, dh.shape[2], dx.shape[3]), dh.new_zeros(b, n, n_moves, dh.shape[3])
    dx = torch.cat([dx, still_x], 2)
    ds = torch.cat([still_h, dh], 2) @ network.embed.weight[:, : dh.shape[3]].mT
    at_once, parts = max(1, _room(x, PAIRS) // (b * n * n)), []
    layer_of: Callable[..., tuple[Tangents, Push]] = egnn_layer if isinstance(network, EGNN) else vector_layer
    for part_s, part_x in zip(torch.split(ds, at_once, 2), torch.split(dx, at_once, 2), strict=True):
        parts.append((part_s, part_x, *_no_vectors(network, part_x.mT), part_x))
    state: Tangents = (network.embed(inputs), x, *_no_vectors(network, x))
    for layer in network.layers:
        state, push = layer_of(layer, state, start, pairs, network.basis)
        parts = [push(part) for part in parts]
    ds, dx = (torch.cat([part[i] for part in parts], 2) for i in (0, 1))
    return state[0], ds[:, :, n_moves:], dx[:, :, :n_moves]


def _no_vectors(network: EGNN | VectorEGNN, like: Tensor) -> tuple[Tensor, ...]:
    return () if isinstance(network, EGNN) else (like.new_zeros(*like.shape, network.n_vectors),)
