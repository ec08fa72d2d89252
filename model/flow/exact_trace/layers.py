"""The layers of the equivariant networks together with the maps of their tangents."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import silu

from enflow.model.flow.exact_trace.ops import (
    Distances,
    Messages,
    add_displacements,
    contract_displacements,
    layer_norm_jvp,
    pair_sums,
    silu_derivative,
)
from enflow.model.flow.networks.egnn import EGNNLayer, RadialBasis
from enflow.model.flow.networks.inference_ops import linear_map
from enflow.model.flow.networks.vector_egnn import (
    MAX_MOVE,
    MAX_VECTOR_LENGTH,
    VECTOR_EPS,
    VECTOR_GAIN,
    VectorEGNNLayer,
    bounded,
)

Tangents = tuple[Tensor, ...]
Pushforward = Callable[[Tangents], Tangents]
"""A map from tangents of the inputs of a layer to tangents of its outputs; the last one is of the input positions."""


def egnn_layer(
    layer: EGNNLayer, state: Tangents, start: Distances, pairs: Tensor, basis: RadialBasis
) -> tuple[Tangents, Pushforward]:
    """Return the outputs of an EGNN layer at (s, x), and the map of tangents there."""
    s, x = state
    pairwise, weight = Distances.of(x, basis), layer.distance.weight
    s_in, norm_jvp = layer.norm(s), layer_norm_jvp(layer.norm, s)
    before = layer.receive(s_in).unsqueeze(-2) + layer.send(s_in).unsqueeze(-3)
    before = before + layer.distance(torch.cat([pairwise.features, start.features], -1))
    m = Messages(layer.message, layer.gate, before, pairs)
    kernel = pairwise.feature_jacobian(weight[:, : basis.dim])
    kernel = torch.cat([kernel, start.feature_jacobian(weight[:, basis.dim :])], -2)

    coordinate = layer.coordinate(m.values)
    phi = layer.coordinate_out(silu(coordinate)).squeeze(-1)
    slope = torch.ones_like(phi)
    if layer.tanh_range is not None:
        phi, slope = torch.tanh(phi) * layer.tanh_range, layer.tanh_range / torch.cosh(phi).square()
    response = (silu_derivative(coordinate) * layer.coordinate_out.weight[0]) @ layer.coordinate.weight
    u = pairwise.relative * (pairs / (pairwise.d + 1.0)).unsqueeze(-1)
    direction_kernel = (u * slope.unsqueeze(-1)).mT
    position_kernel = phi[..., None, None] * pairwise.direction_jacobian(pairs)
    sums = m.values.sum(-2) / layer.message_scale
    pre_activation = layer.node_in(torch.cat([s_in, sums], -1))
    hidden_slope, ones = silu_derivative(pre_activation).unsqueeze(-2), torch.ones_like(pairs).unsqueeze(-1)

    def push(tangents: Tangents) -> Tangents:
        ds, dx, dx0 = tangents
        ds_in = norm_jvp(ds)
        receive, send = (linear_map(ds_in, end.weight).unsqueeze(2) for end in (layer.receive, layer.send))
        e = m.activation_jvp(add_displacements(pair_sums(receive, send, ones), torch.cat([dx, dx0], -1), kernel))
        dx = dx + (direction_kernel @ m.response(e, response)).mT + contract_displacements(dx, position_kernel)
        dsums = m.weighted_sum_jvp(e, ones).squeeze(2) / layer.message_scale
        hidden = linear_map(torch.cat([ds_in, dsums], -1), layer.node_in.weight).mul_(hidden_slope)
        return ds + linear_map(hidden, layer.node_out.weight), dx, dx0

    return (s + layer.node_out(silu(pre_activation)), x + (u * phi.unsqueeze(-1)).sum(-2)), push


def vector_layer(
    layer: VectorEGNNLayer, state: Tangents, start: Distances, pairs: Tensor, basis: RadialBasis
) -> tuple[Tangents, Pushforward]:
    """Return the outputs of a vector EGNN layer at (s, x, vectors), and the map of tangents there."""
    s, x, vectors = state
    pairwise, weight = Distances.of(x, basis), layer.distance.weight
    s_in, norm_jvp = layer.norm(s), layer_norm_jvp(layer.norm, s)
    u = pairwise.relative * (pairs / (pairwise.d + 1.0)).unsqueeze(-1)
    received, sent = layer.receive_vectors(vectors), layer.send_vectors(vectors)
    before = layer.receive(s_in).unsqueeze(-2) + layer.send(s_in).unsqueeze(-3)
    before = before + layer.distance(torch.cat([pairwise.features, start.features], -1))
    before = before + u @ received - (u @ sent).transpose(-2, -3)
    m = Messages(layer.message, layer.gate, before, pairs)
    jacobian, gain = pairwise.direction_jacobian(pairs), VECTOR_GAIN / layer.message_scale
    kernel = pairwise.feature_jacobian(weight[:, : basis.dim])
    kernel = kernel + jacobian @ (received.unsqueeze(2) + sent.unsqueeze(1))
    kernel = torch.cat([kernel, start.feature_jacobian(weight[:, basis.dim :])], -2)
    position_kernel = jacobian.unsqueeze(-1) * layer.collect(m.values)[..., None, None, :]
    position_kernel = position_kernel.flatten(-2)  # (B, N, N, D, D K)
    shares = torch.cat([torch.ones_like(u[..., :1]), u], -1)
    scalar_ends = torch.cat([layer.receive.weight, layer.send.weight])
    vector_ends = torch.cat([layer.receive_vectors.weight, layer.send_vectors.weight])

    collected = vectors + gain * layer.collect(u.mT @ m.values)
    atoms = _AtomUpdate(layer, s, s_in, collected, m.values.sum(-2) / layer.message_scale)

    def push(tangents: Tangents) -> Tangents:
        ds, dx, dvectors, dx0 = tangents
        ds_in = norm_jvp(ds)
        ends = torch.cat([linear_map(ds_in, scalar_ends).unsqueeze(2), linear_map(dvectors, vector_ends)], 2)
        receive, send = ends.chunk(2, -1)
        e = m.activation_jvp(add_displacements(pair_sums(receive, send, shares), torch.cat([dx, dx0], -1), kernel))
        sums = m.weighted_sum_jvp(e, shares)
        collected = linear_map(sums[:, :, 1:], layer.collect.weight)  # (B, N, D, Q, K)
        collected += contract_displacements(dx, position_kernel).view(*dx.shape, -1).transpose(2, 3)
        collected = torch.add(dvectors, collected, alpha=gain)
        ds, move, dvectors = atoms.push(ds, ds_in, collected, sums[:, :, 0] / layer.message_scale)
        return ds, dx + move, dvectors, dx0

    return (atoms.s, x + atoms.move, atoms.vectors), push


class _AtomUpdate:
    """The update of each atom after the sum over messages."""

    def __init__(self, layer: VectorEGNNLayer, s: Tensor, s_in: Tensor, collected: Tensor, sums: Tensor) -> None:
        self._layer, self._collected = layer, collected
        self._bounded = bounded(collected, MAX_VECTOR_LENGTH)
        self._lengths = torch.sqrt(self._bounded.square().sum(-2) + VECTOR_EPS)
        pre_activation = layer.node_in(torch.cat([s_in, sums, self._lengths], -1))
        hidden = silu(pre_activation)
        self._slope, self._moves = silu_derivative(pre_activation).unsqueeze(-2), layer.move_scale * layer.moves(hidden)
        self._move = self._bounded @ self._moves.unsqueeze(-1)
        self._scales = 2.0 * torch.sigmoid(layer.scales(hidden))
        self._scale_slope = (self._scales * (1.0 - self._scales / 2.0))[:, :, None, None]
        self._outputs = torch.cat([layer.move_scale * layer.moves.weight, layer.scales.weight])
        self.s = s + layer.node_out(hidden)
        self.move = bounded(self._move, MAX_MOVE).squeeze(-1)
        self.vectors = self._bounded * self._scales.unsqueeze(-2)

    def push(self, ds: Tensor, ds_in: Tensor, collected: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tangents of s, the move and the vectors, given those of s, s_in, collected vectors and sums."""
        layer, here = self._layer, self._bounded.unsqueeze(-2)  # (B, N, D, 1, K)
        vectors_bounded = _bounded_jvp(self._collected, collected, MAX_VECTOR_LENGTH)
        lengths = (here * vectors_bounded).sum(2) / self._lengths.unsqueeze(-2)
        hidden = linear_map(torch.cat([ds_in, sums, lengths], -1), layer.node_in.weight).mul_(self._slope)
        moves, scales = linear_map(hidden, self._outputs).unsqueeze(2).chunk(2, -1)
        move = (vectors_bounded @ self._moves[:, :, None, :, None]).squeeze(-1) + (here * moves).sum(-1)  # (B, N, D, Q)
        move = _bounded_jvp(self._move, move.unsqueeze(-1), MAX_MOVE).squeeze(-1)
        vectors = vectors_bounded * self._scales[:, :, None, None] + (here * self._scale_slope) * scales
        return linear_map(hidden, layer.node_out.weight).add_(ds), move.mT, vectors


def _bounded_jvp(vectors: Tensor, tangents: Tensor, max_length: float) -> Tensor:
    # The tangents of `bounded` at vectors (B, N, D, K), given tangents (B, N, D, Q, K).
    vectors = vectors.unsqueeze(-2)
    share = torch.rsqrt(1.0 + vectors.square().sum(2, keepdim=True) / max_length**2)
    along = (vectors * tangents).sum(2, keepdim=True)
    return (share * tangents).sub_((vectors * (share**3 / max_length**2)) * along)
