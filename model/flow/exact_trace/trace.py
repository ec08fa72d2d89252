"""The exact trace of the velocity of a network, by tangents that are mapped through its layers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vmap

from enflow.model.flow.exact_trace.layers import Pushforward, Tangents, egnn_layer, vector_layer
from enflow.model.flow.exact_trace.ops import Distances, layer_norm_jvp
from enflow.model.flow.geometry import pair_mask
from enflow.model.flow.networks.egnn import EGNN
from enflow.model.flow.networks.vector_egnn import VectorEGNN

TANGENT_PAIRS = 1 << 15
"""The number of pairs times directions in one batch: a larger one exceeds the cache, a smaller one has more calls."""

ATOMS = 5000
"""The number of atoms times directions in a batch of molecules."""

GPU_FACTOR = 64
"""The factor by which batches on a GPU are larger; not measured."""


JointOutput = Callable[[Tensor, Tensor], Tensor]


def trace(
    network: EGNN | VectorEGNN,
    inputs: Tensor,
    x: Tensor,
    h: Tensor,
    mask: Tensor,
    output: Callable[..., Tensor],
    joint_output: JointOutput | None = None,
) -> Tensor:
    """Return the trace of the Jacobian of (centre(x_out - x), output(h, outputs)), (B,).

    Args:
        network: the network (inputs (B, N, I), x, pairs) -> (outputs, x_out).
        inputs: the inputs of the network; the first of them are the features.
        x: positions, (B, N, D).
        h: features, (B, N, F); F = 0 if they do not change.
        mask: True for real atoms, (B, N); they come first.
        output: a function (rows, h, outputs) -> velocity of the features of these rows, for each atom by itself.
        joint_output: a function (outputs, mask) -> outputs that couples the atoms before `output`; None = identity.
    """
    n_atoms, width = x.shape[1], x.shape[2] + h.shape[2]
    batches = torch.arange(len(x), device=x.device).chunk(_n_batches(x, len(x) * n_atoms**2 * width, ATOMS))
    rows = [slice(int(batch[0]), int(batch[-1]) + 1) for batch in batches]
    return torch.cat(
        [_trace(network, inputs[r], x[r], h[r], mask[r], lambda *of, r=r: output(r, *of), joint_output) for r in rows]
    )


def _trace(
    network: EGNN | VectorEGNN,
    inputs: Tensor,
    x: Tensor,
    h: Tensor,
    mask: Tensor,
    output: Callable[..., Tensor],
    joint_output: JointOutput | None,
) -> Tensor:
    # The basis vectors are e_i - e_0, as in `divergence.exact`.
    real = mask.to(x.dtype)[..., None, None]
    basis_x, basis_h = _basis(x, skip=x.shape[-1]) * real, _basis(h) * real
    dx = torch.cat([basis_x[:, :1] - basis_x.sum(1, keepdim=True), basis_x[:, 1:]], 1)
    s, ds, x_tangents = _propagate(network, inputs, x, mask, dx, basis_h)

    dv = (x_tangents - dx) * real
    dv = dv - dv.sum(1, keepdim=True) / real.sum(1, keepdim=True)
    entries = (dv * basis_x).sum((1, 2, 3))
    if not h.shape[-1]:
        return entries
    n_features = h.shape[2]
    assert network.readout is not None, "features that change have a readout"
    if joint_output is None:  # the velocity of an atom depends on its own outputs alone
        ds = _diagonal(ds, n_features)
    outputs, directions = network.readout(network.norm(s)), torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    moves = layer_norm_jvp(network.norm, s)(ds) @ network.readout.weight.mT
    if joint_output is not None:
        moves = vmap(lambda move: jvp(lambda o: joint_output(o, mask), (outputs,), (move,))[1], 2, 2)(moves)
        outputs, moves = joint_output(outputs, mask), _diagonal(moves, n_features)

    def entry(direction: Tensor, move: Tensor) -> Tensor:
        velocity: Tensor = jvp(output, (h, outputs), (direction.expand_as(h), move))[1]
        return velocity @ direction

    return entries + (vmap(entry, in_dims=(0, 2))(directions, moves) * mask).sum((0, 2))


def _diagonal(moves: Tensor, n_features: int) -> Tensor:
    """Return the tangents (B, N, F, S) in the directions of the own features of each atom, from (B, N, N F, S)."""
    b, n = moves.shape[:2]
    return moves.view(b, n, n, n_features, -1).diagonal(dim1=1, dim2=2).permute(0, 3, 1, 2)


def _n_batches(x: Tensor, total: int, limit: int) -> int:
    """Return the number of equal batches of a total amount of work, each within a limit of the device of x."""
    return max(1, math.ceil(total / (limit if x.device.type == "cpu" else GPU_FACTOR * limit)))


def _basis(values: Tensor, skip: int = 0) -> Tensor:
    """Return the unit vectors (1, N, N F - skip, F) of all values (B, N, F) but the first `skip`."""
    n_atoms, width = values.shape[1:]
    vectors = torch.eye(n_atoms * width, dtype=values.dtype, device=values.device)[skip:]
    return vectors.view(1, len(vectors), n_atoms, width).transpose(1, 2)


def _propagate(
    network: EGNN | VectorEGNN, inputs: Tensor, x: Tensor, mask: Tensor, dx: Tensor, dh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the final node features, their tangents by the features h, and the tangents of positions by positions."""
    pairs, start = pair_mask(mask).to(x.dtype), Distances.of(x, network.basis)
    b, n, n_moves = dx.shape[:3]
    zero_x, zero_h = dx.new_zeros(b, n, dh.shape[2], dx.shape[3]), dh.new_zeros(b, n, n_moves, dh.shape[3])
    dx = torch.cat([dx, zero_x], 2)
    ds = torch.cat([zero_h, dh], 2) @ network.embed.weight[:, : dh.shape[3]].mT
    n_parts, parts = _n_batches(x, b * n * n * dx.shape[2], TANGENT_PAIRS), []
    layer_of: Callable[..., tuple[Tangents, Pushforward]] = egnn_layer if isinstance(network, EGNN) else vector_layer
    for part_s, part_x in zip(ds.chunk(n_parts, 2), dx.chunk(n_parts, 2), strict=True):
        parts.append((part_s, part_x, *_zero_vectors(network, part_x.mT), part_x))
    state: Tangents = (network.embed(inputs), x, *_zero_vectors(network, x))
    for layer in network.layers:
        state, push = layer_of(layer, state, start, pairs, network.basis)
        parts = [push(part) for part in parts]
    ds, dx = (torch.cat([part[i] for part in parts], 2) for i in (0, 1))
    return state[0], ds[:, :, n_moves:], dx[:, :, :n_moves]


def _zero_vectors(network: EGNN | VectorEGNN, like: Tensor) -> tuple[Tensor, ...]:
    return () if isinstance(network, EGNN) else (like.new_zeros(*like.shape, network.n_vectors),)
