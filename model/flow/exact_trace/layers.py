"""The layers of the equivariant networks, with what they do to tangents."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import silu

from enflow.model.flow.exact_trace.ops import Distances, Messages, between, displaced, drawn, silu_slope, through_norm
from enflow.model.flow.networks.egnn import EGNNLayer, RadialBasis
from enflow.model.flow.networks.inference_ops import product
from enflow.model.flow.networks.vector_egnn import FARTHEST, LONGEST, VECTOR_EPS, VECTOR_GAIN, VectorEGNNLayer, bounded

Tangents = tuple[Tensor, ...]
Push = Callable[[Tangents], Tangents]
"""Tangents of a layer's inputs, and last those of the positions that entered the network -> of its outputs alike."""


def egnn_layer(
    layer: EGNNLayer, state: Tangents, start: Distances, pairs: Tensor, basis: RadialBasis
) -> tuple[Tangents, Push]:
    """An EGNN's layer at (s, x): its outputs, and their derivative."""
    s, x = state
    here, weight, s_in, normed = (
        Distances.of(x, basis),
        layer.distance.weight,
        layer.norm(s),
        through_norm(layer.norm, s),
    )
    before = layer.receive(s_in).unsqueeze(-2) + layer.send(s_in).unsqueeze(-3)
    before = before + layer.distance(torch.cat([here.features, start.features], -1))
    m = Messages(layer.message, layer.gate, before, pairs)
    kernel = torch.cat([here.steepness(weight[:, : basis.dim]), start.steepness(weight[:, basis.dim :])], -2)

    coordinate = layer.coordinate(m.values)
    phi = layer.coordinate_out(silu(coordinate)).squeeze(-1)
    slope = torch.ones_like(phi)
    if layer.tanh_range is not None:
        phi, slope = torch.tanh(phi) * layer.tanh_range, layer.tanh_range / torch.cosh(phi).square()
    response = (silu_slope(coordinate) * layer.coordinate_out.weight[0]) @ layer.coordinate.weight
    u = here.relative * (pairs / (here.d + 1.0)).unsqueeze(-1)
    pushed, turned = (u * slope.unsqueeze(-1)).mT, phi[..., None, None] * here.turning(pairs)
    sums = m.values.sum(-2) / layer.message_scale
    inside = layer.node_in(torch.cat([s_in, sums], -1))
    inside_slope, ones = silu_slope(inside).unsqueeze(-2), torch.ones_like(pairs).unsqueeze(-1)

    def push(tangents: Tangents) -> Tangents:
        ds, dx, dx0 = tangents
        ds_in = normed(ds)
        receive, send = (product(ds_in, end.weight).unsqueeze(2) for end in (layer.receive, layer.send))
        e = m.moved(displaced(between(receive, send, ones), torch.cat([dx, dx0], -1), kernel))
        dx = dx + (pushed @ m.response(e, response)).mT + drawn(dx, turned)
        dsums = m.summed(e, ones).squeeze(2) / layer.message_scale
        hidden = product(torch.cat([ds_in, dsums], -1), layer.node_in.weight).mul_(inside_slope)
        return ds + product(hidden, layer.node_out.weight), dx, dx0

    return (s + layer.node_out(silu(inside)), x + (u * phi.unsqueeze(-1)).sum(-2)), push


def vector_layer(
    layer: VectorEGNNLayer, state: Tangents, start: Distances, pairs: Tensor, basis: RadialBasis
) -> tuple[Tangents, Push]:
    """A layer of the network with vectors at (s, x, vectors): its outputs, and their derivative."""
    s, x, vectors = state
    here, weight, s_in, normed = (
        Distances.of(x, basis),
        layer.distance.weight,
        layer.norm(s),
        through_norm(layer.norm, s),
    )
    u = here.relative * (pairs / (here.d + 1.0)).unsqueeze(-1)
    received, sent = layer.receive_vectors(vectors), layer.send_vectors(vectors)
    before = layer.receive(s_in).unsqueeze(-2) + layer.send(s_in).unsqueeze(-3)
    before = before + layer.distance(torch.cat([here.features, start.features], -1))
    before = before + u @ received - (u @ sent).transpose(-2, -3)
    m = Messages(layer.message, layer.gate, before, pairs)
    turning, gain = here.turning(pairs), VECTOR_GAIN / layer.message_scale
    kernel = here.steepness(weight[:, : basis.dim]) + turning @ (received.unsqueeze(2) + sent.unsqueeze(1))
    kernel = torch.cat([kernel, start.steepness(weight[:, basis.dim :])], -2)
    turned = (turning.unsqueeze(-1) * layer.collect(m.values)[..., None, None, :]).flatten(-2)  # (B, N, N, D, D K)
    shares = torch.cat([torch.ones_like(u[..., :1]), u], -1)

    gathered = vectors + gain * layer.collect(u.mT @ m.values)
    atoms = _Atoms(layer, s, s_in, gathered, m.values.sum(-2) / layer.message_scale)

    def push(tangents: Tangents) -> Tangents:
        ds, dx, dvectors, dx0 = tangents
        ds_in = normed(ds)
        ends = (layer.receive, layer.receive_vectors), (layer.send, layer.send_vectors)
        receive, send = (
            torch.cat([product(ds_in, scalar.weight).unsqueeze(2), product(dvectors, vector.weight)], 2)
            for scalar, vector in ends
        )
        e = m.moved(displaced(between(receive, send, shares), torch.cat([dx, dx0], -1), kernel))
        sums = m.summed(e, shares)
        collected = product(sums[:, :, 1:], layer.collect.weight)  # (B, N, D, Q, K)
        collected += drawn(dx, turned).view(*dx.shape, -1).transpose(2, 3)
        ds, move, dvectors = atoms.push(ds, ds_in, dvectors + gain * collected, sums[:, :, 0] / layer.message_scale)
        return ds, dx + move, dvectors, dx0

    return (atoms.s, x + atoms.move, atoms.vectors), push


class _Atoms:
    """What the layer does on each atom, once the messages are summed."""

    def __init__(self, layer: VectorEGNNLayer, s: Tensor, s_in: Tensor, gathered: Tensor, sums: Tensor) -> None:
        self._layer, self._gathered = layer, gathered
        self._within = bounded(gathered, LONGEST)
        self._lengths = torch.sqrt(self._within.square().sum(-2) + VECTOR_EPS)
        inside = layer.node_in(torch.cat([s_in, sums, self._lengths], -1))
        hidden = silu(inside)
        self._slope, self._moves = silu_slope(inside).unsqueeze(-2), layer.move_scale * layer.moves(hidden)
        self._move = self._within @ self._moves.unsqueeze(-1)
        self._scales = 2.0 * torch.sigmoid(layer.scales(hidden))
        self.s = s + layer.node_out(hidden)
        self.move = bounded(self._move, FARTHEST).squeeze(-1)
        self.vectors = self._within * self._scales.unsqueeze(-2)

    def push(self, ds: Tensor, ds_in: Tensor, gathered: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tangents of s, s_in, the gathered vectors and the summed messages -> of s, the move and the vectors."""
        layer, here = self._layer, self._within.unsqueeze(-2)  # (B, N, D, 1, K)
        within = _through_bound(self._gathered, gathered, LONGEST)
        lengths = (here * within).sum(2) / self._lengths.unsqueeze(-2)
        hidden = product(torch.cat([ds_in, sums, lengths], -1), layer.node_in.weight).mul_(self._slope)
        moves = layer.move_scale * product(hidden, layer.moves.weight).unsqueeze(2)
        move = (within @ self._moves[:, :, None, :, None]).squeeze(-1) + (here * moves).sum(-1)  # (B, N, D, Q)
        move = _through_bound(self._move, move.unsqueeze(-1), FARTHEST).squeeze(-1)
        scales = product(hidden, layer.scales.weight) * (self._scales * (1.0 - self._scales / 2.0)).unsqueeze(-2)
        vectors = within * self._scales[:, :, None, None] + here * scales.unsqueeze(2)
        return ds + product(hidden, layer.node_out.weight), move.mT, vectors


def _through_bound(vectors: Tensor, tangents: Tensor, longest: float) -> Tensor:
    # Of `bounded`, vectors (B, N, D, K), tangents (B, N, D, Q, K).
    vectors = vectors.unsqueeze(-2)
    share = torch.rsqrt(1.0 + vectors.square().sum(2, keepdim=True) / longest**2)
    along = (vectors * tangents).sum(2, keepdim=True)
    return share * tangents - vectors * (share**3 / longest**2 * along)
