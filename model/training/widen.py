"""Function-preserving widening: a wide and deep network that begins as the function a small one has learnt.

Net2Net (Chen, Goodfellow and Shlens 2016) copies hidden units; here the new ones are random, so that no symmetry has to
be broken, and nothing of them reaches the old outputs at first:

- a new hidden unit has random incoming weights and zero outgoing weights;
- a new channel of the node features is written by zero weights and read by random ones;
- a new layer stands behind the old ones; the two maps that write its results are zero.

Gradients reach the zero weights in the first step and the random ones in the second.
"""

from dataclasses import fields, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from enflow.model.config import FlowConfig, VectorEGNNConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.dynamics import VectorEGNNDynamics
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.networks.vector_egnn import VectorEGNN, VectorEGNNLayer

GROWING = ("node_dim", "edge_dim", "n_vectors", "n_layers")
"""The sizes that a widening may raise; the scale of the moves may change, too."""

Width = tuple[int, int]
"""The widths of the small and of the wide network."""


@torch.no_grad()
def widened(flow: MoleculeFlow, config: FlowConfig) -> MoleculeFlow:
    """Return a flow of a larger configuration whose velocity is that of `flow`, up to rounding.

    Args:
        flow: the flow with the smaller dynamics, a VectorEGNN.
        config: the larger configuration; it differs from that of `flow` in sizes of the dynamics, and in `move_scale`.

    Raises:
        ConfigError: the configurations differ in something else, or a size of the larger one is smaller.
    """
    check_grows(flow.config, config)
    wide = MoleculeFlow(config).to(flow.device, flow.dtype)
    others = {name: value for name, value in flow.state_dict().items() if not name.startswith("dynamics.")}
    wide.load_state_dict(wide.dynamics.state_dict(prefix="dynamics.") | others)
    old, new = flow.dynamics, wide.dynamics
    assert isinstance(old, VectorEGNNDynamics), "checked"
    assert isinstance(new, VectorEGNNDynamics), "checked"
    assert isinstance(old.network, VectorEGNN), "of that dynamics"
    assert isinstance(new.network, VectorEGNN), "of that dynamics"
    _widen_network(new.network, old.network)
    return wide


def check_grows(small: FlowConfig, wide: FlowConfig) -> None:
    """Check that one configuration describes a widened version of the other.

    Raises:
        ConfigError: it does not; the message names the field.
    """
    a, b = small.dynamics, wide.dynamics
    if replace(wide, dynamics=a) != small or not (isinstance(a, VectorEGNNConfig) and isinstance(b, VectorEGNNConfig)):
        raise ConfigError("found another model than the configuration's flow; expected the same, or a smaller one")
    for name in (field.name for field in fields(a)):
        found, expected = getattr(a, name), getattr(b, name)
        if name in GROWING and found > expected:
            raise ConfigError(f"found {name} {found}, which the configuration's flow has {expected} of; expected fewer")
        if name not in (*GROWING, "move_scale") and found != expected:
            raise ConfigError(f"found {name} {found}, but {expected} in the configuration's flow; expected the same")


def _widen_network(wide: VectorEGNN, small: VectorEGNN) -> None:
    node = small.norm.weight.numel(), wide.norm.weight.numel()
    _copy(wide.embed, _centred(small.embed), silent=True)
    for new, old in zip(wide.layers, small.layers, strict=False):
        _widen_layer(new, old, node)  # type: ignore[arg-type]
    for layer in list(wide.layers)[len(small.layers) :]:
        for linear in (layer.node_out, layer.moves):
            nn.init.zeros_(linear.weight)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[union-attr, arg-type]
    _copy_norm(wide.norm, small.norm)
    if wide.readout is not None and small.readout is not None:
        _copy(wide.readout, small.readout, node, reads_silent=True)


def _widen_layer(wide: VectorEGNNLayer, small: VectorEGNNLayer, node: Width) -> None:
    edge = small.message.out_features, wide.message.out_features
    vectors = small.moves.out_features, wide.moves.out_features
    _copy_norm(wide.norm, small.norm)
    _copy(wide.receive, small.receive, node, reads_silent=True)
    _copy(wide.send, small.send, node, reads_silent=True)
    _copy(wide.distance, small.distance)
    _copy(wide.receive_vectors, small.receive_vectors, vectors)
    _copy(wide.send_vectors, small.send_vectors, vectors)
    _copy(wide.message, small.message, edge)
    _copy(wide.gate, small.gate, edge)
    _copy(wide.collect, small.collect, edge)
    _copy(wide.node_in, small.node_in, node, edge, vectors, reads_silent=True)
    _copy(wide.node_out, _centred(small.node_out), node, silent=True)
    _copy(wide.scales, small.scales, node)
    _copy(wide.moves, small.moves, node, silent=True)
    for parameter in wide.moves.parameters():
        parameter.mul_(small.move_scale / wide.move_scale)


def _copy(wide: nn.Linear, small: nn.Linear, *inputs: Width, silent: bool = False, reads_silent: bool = False) -> None:
    """Copy a linear map into a wider one; its new outputs keep their random weights.

    Args:
        inputs: the widths of the parts of the input, one behind the other; none = the input is as wide as it was.
        silent: the new outputs are zero.
        reads_silent: the new channels of the first part are zero, so that their weights may stay random.
    """
    rows, columns = small.weight.shape
    parts = inputs or ((columns, columns),)
    begins = accumulate((width for _, width in parts), initial=0)
    kept = torch.cat([torch.arange(begin, begin + old) for begin, (old, _) in zip(begins, parts, strict=False)])
    random = range(parts[0][0], parts[0][1]) if reads_silent else range(0)
    wide.weight[:rows, [column for column in range(wide.in_features) if column not in random]] = 0.0
    wide.weight[:rows, kept] = small.weight
    if wide.bias is not None:
        wide.bias[:rows] = small.bias
    if silent:
        for parameter in wide.parameters():
            parameter[rows:] = 0.0


def _centred(linear: nn.Linear) -> nn.Linear:
    """Return the map less its mean over the outputs, which no LayerNorm that reads it sees."""
    centred = nn.Linear(linear.in_features, linear.out_features).to(linear.weight)
    centred.weight.copy_(linear.weight - linear.weight.mean(0))
    centred.bias.copy_(linear.bias - linear.bias.mean())
    return centred


def _copy_norm(wide: nn.LayerNorm, small: nn.LayerNorm) -> None:
    """Copy a normalisation of centred features.

    Silent channels beside them divide their variance by the ratio of the widths, which the scale makes up for.
    """
    width = small.weight.numel()
    scale = (width / wide.weight.numel()) ** 0.5
    wide.eps = small.eps
    wide.bias[:width], wide.bias[width:] = small.bias, 0.0
    wide.weight[:width], wide.weight[width:] = scale * small.weight, scale * _typical(small.weight)


def _typical(values: Tensor) -> Tensor:
    """Return the root mean square."""
    return values.square().mean().sqrt()
