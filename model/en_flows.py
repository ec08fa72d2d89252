"""The QM9 model that the authors of E-NF released (vgsatorras/en_flows), read into Enflow's own classes.

The time of that model runs from data to base; only this module knows it. The options of the network are not in the
tensors. They are the documented ones: tanh with a range of 15 over all layers, time as the last input feature, sums of
messages.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor
from torch.nn.functional import pad

from enflow.model.config import DequantizerConfig, EGNNConfig, FlowConfig
from enflow.model.errors import WeightsError
from enflow.model.flow.molecule_flow import MoleculeFlow

COORDINATE_RANGE = 15.0

MOLECULES_BY_SIZE = {
    3: 1, 4: 4, 5: 5, 6: 9, 7: 16, 8: 49, 9: 124, 10: 362, 11: 807, 12: 1689, 13: 3060, 14: 5136, 15: 7796, 16: 10644,
    17: 13025, 18: 13364, 19: 13832, 20: 9482, 21: 9970, 22: 3393, 23: 4848, 24: 539, 25: 1506, 26: 48, 27: 266, 29: 25,
}  # fmt: skip
"""Number of atoms -> number of the 100,000 training molecules of that size: the model's p(N)."""

UNSEEN = 1e-30
"""The constant that the original code adds to the probability of every size."""

LAYER = {
    "edge_mlp.2": "message",
    "att_mlp.0": "gate",
    "coord_mlp.0": "coordinate",
    "coord_mlp.2": "coordinate_out",
    "node_mlp.0": "node_in",
    "node_mlp.2": "node_out",
}
"""Linear maps of a layer that are used as they are: original name -> Enflow's name."""


def import_en_flows(directory: str | os.PathLike[str]) -> MoleculeFlow:
    """Load the original authors' QM9 model, in evaluation mode.

    Only tensors are read from the files, which are PyTorch state dicts; args.pickle is never opened.

    Args:
        directory: holds flow.npy and dequantizer.npy.

    Raises:
        WeightsError: a file is missing or is no state dict, or its tensors are not those of that model.
    """
    place = Path(directory)
    flow_tensors = _Tensors(place / "flow.npy")
    dequantizer_tensors = _Tensors(place / "dequantizer.npy")
    state = {
        **_act_norm(flow_tensors, "transformations.0."),
        **_network(flow_tensors, "transformations.1.odefunc.dynamics.egnn.", "dynamics.network.", n_distances=2),
        **_network(dequantizer_tensors, "net_fn.egnn.", "dequantizer.network.", n_distances=1),
    }
    flow_tensors.check_nothing_left({"initialized", "int_time", "inv_int_time"})
    dequantizer_tensors.check_nothing_left(set())
    config = _config(state)
    for name in ("dynamics.network.readout.weight", "dynamics.network.readout.bias"):
        state[name] = state[name][: config.dynamics.n_features]  # the last output belongs to the time
    flow = MoleculeFlow(config)
    state["n_atoms.log_probs"] = _sizes(config.max_atoms)
    _check_shapes(state, flow.state_dict(), place)
    flow.load_state_dict(state)
    return flow.eval()


class _Tensors:
    """The tensors of one file; each is taken once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = _read(path)

    def take(self, name: str) -> Tensor:
        if name not in self.left:
            raise WeightsError(f"{self.path}: no tensor {name!r}; expected the QM9 model released with en_flows")
        return self.left.pop(name)

    def check_nothing_left(self, ignored: set[str]) -> None:
        left = sorted(name for name in self.left if name.rsplit(".", 1)[-1] not in ignored)
        if left:
            raise WeightsError(f"{self.path}: found tensor {left[0]!r}, which the QM9 model of en_flows does not have")


def _read(path: Path) -> dict[str, Tensor]:
    expected = "expected a directory with flow.npy and dequantizer.npy, the model released with en_flows"
    if not path.is_file():
        raise WeightsError(f"no file {path}; {expected}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is not a PyTorch state dict ({reason:.80}); {expected}") from None
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"{path}: found a {type(found).__name__}, expected a mapping of names to tensors")
    return dict(found)


def _act_norm(tensors: _Tensors, source: str) -> dict[str, Tensor]:
    names = {"x_log_s": "x_log_scale", "h_t": "h_shift", "h_log_s": "h_log_scale"}
    taken = {f"act_norm.{target}": tensors.take(source + name).squeeze(0) for name, target in names.items()}
    return {**taken, "act_norm.x_log_scale": taken["act_norm.x_log_scale"].squeeze()}


def _network(tensors: _Tensors, source: str, target: str, n_distances: int) -> dict[str, Tensor]:
    state = {target + f"embed.{part}": tensors.take(f"{source}embedding.{part}") for part in ("weight", "bias")}
    state |= {target + f"readout.{part}": tensors.take(f"{source}embedding_out.{part}") for part in ("weight", "bias")}
    layers = {name.removeprefix(source).split(".")[0] for name in tensors.left if name.startswith(source + "gcl_")}
    if not layers:
        raise WeightsError(f"{tensors.path}: no layers {source}gcl_*; expected the QM9 model released with en_flows")
    for layer in range(len(layers)):
        for name, tensor in _layer(tensors, f"{source}gcl_{layer}.", n_distances).items():
            state[f"{target}layers.{layer}.{name}"] = tensor
    return state


def _layer(tensors: _Tensors, source: str, n_distances: int) -> dict[str, Tensor]:
    # The original first map of an edge takes [receiver, sender, r^2, r^2 of the input]; the dequantizer lacks the last.
    edge = tensors.take(source + "edge_mlp.0.weight")
    width = (edge.shape[-1] - n_distances) // 2
    receive, send, distance = edge.tensor_split((width, 2 * width), -1)
    state = {
        "receive.weight": receive,
        "receive.bias": tensors.take(source + "edge_mlp.0.bias"),
        "send.weight": send,
        "distance.weight": pad(distance, (0, 2 - n_distances)),
    }
    for name, own in LAYER.items():
        if name == "att_mlp.0" and source + "att_mlp.0.weight" not in tensors.left:
            continue
        for part in ("weight",) if name == "coord_mlp.2" else ("weight", "bias"):
            state[f"{own}.{part}"] = tensors.take(f"{source}{name}.{part}")
    return state


def _config(state: Mapping[str, Tensor]) -> FlowConfig:
    n_features = state["act_norm.h_shift"].numel()
    n_layers, width = _shape(state, "dynamics.network.")
    q_layers, q_width = _shape(state, "dequantizer.network.")
    dynamics = EGNNConfig(
        n_features=n_features, node_dim=width, edge_dim=width, n_layers=n_layers, n_radial=0, layer_norm=False,
        gate="dynamics.network.layers.0.gate.weight" in state, tanh_range=COORDINATE_RANGE / n_layers,
        message_scale=1.0, n_frequencies=0, size_input=False, output="velocity", reverse=True,
    )  # fmt: skip
    dequantizer = DequantizerConfig("argmax_variational", scale=0.0, sigma=1.0, node_dim=q_width, n_layers=q_layers)
    return FlowConfig(dynamics=dynamics, dequantizer=dequantizer, act_norm=True)


def _shape(state: Mapping[str, Tensor], network: str) -> tuple[int, int]:
    layers = {name.removeprefix(network).split(".")[1] for name in state if name.startswith(network + "layers.")}
    return len(layers), state[network + "embed.bias"].numel()


def _sizes(max_atoms: int) -> Tensor:
    counts = torch.tensor([MOLECULES_BY_SIZE.get(n, 0) for n in range(max_atoms + 1)], dtype=torch.float64)
    log_probs = (counts / counts.sum() + UNSEEN).log()
    log_probs[0] = -torch.inf
    return log_probs


def _check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], place: Path) -> None:
    for name, tensor in expected.items():
        if name not in state:
            raise WeightsError(f"{place}: nothing found for {name}; expected the QM9 model released with en_flows")
        if (found := tuple(state[name].shape)) != tuple(tensor.shape):
            raise WeightsError(f"{place}: found shape {found} for {name}, expected {tuple(tensor.shape)}")
