"""The speed of the velocity: Enflow's network against the original implementation of the same architecture.

    python -m benchmarks.bench_velocity --reference DIR

DIR holds the checkpoint of E-NF's authors (flow.npy, dequantizer.npy); without it both sides get the same random
weights, which take the same time. Enflow's network is compiled, as `enflow compile` does it. The last row is the time
of its matrix products alone, each as one call of `torch.mm`. Batches of 50 molecules with the sizes of QM9, float32,
one thread, processor time.
"""

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.matrix_products import matrix_products
from benchmarks.measure import by_turns, ratio, write_results
from enflow.model.config import DequantizerConfig, EGNNConfig, FlowConfig
from enflow.model.en_flows import MOLECULES_BY_SIZE, import_en_flows
from enflow.model.flow.compiled_velocity import compile_velocity, load_compiled
from enflow.model.flow.geometry import centre
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.size_buckets import bucketed
from enflow.model.flow.velocity import Velocity

ROWS = 50
REQUIRED, GOAL = 4.0, 8.0
PRODUCTS = "the matrix products of enflow alone"

ARCHITECTURE = EGNNConfig(
    n_features=6, node_dim=64, edge_dim=64, n_layers=6, n_radial=0, layer_norm=False, tanh_range=2.5, message_scale=1.0,
    n_frequencies=0, size_input=False, output="velocity", reverse=True,
)  # fmt: skip


class OriginalLayer(nn.Module):
    """A layer as in E-NF: a list of all ordered pairs, concatenated end nodes, sums by scatter."""

    def __init__(self, width: int, tanh_range: float) -> None:
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(2 * width + 2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.gate = nn.Sequential(nn.Linear(width, 1), nn.Sigmoid())
        self.coordinate = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1, bias=False), nn.Tanh())
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.tanh_range = tanh_range

    def forward(self, s: Tensor, x: Tensor, pairs: "Pairs") -> tuple[Tensor, Tensor]:
        row, column = pairs.row, pairs.column
        difference = x[row] - x[column]
        radial = torch.sum(difference**2, 1, keepdim=True)
        difference = difference / (torch.sqrt(radial + 1e-8) + 1)
        message = self.edge(torch.cat([s[row], s[column], radial, pairs.radial], 1))
        message = message * self.gate(message) * pairs.real
        step = difference * self.coordinate(message) * self.tanh_range * pairs.real
        x = (x + scatter_sum(step, row, len(x))) * pairs.real_atoms
        s = (s + self.node(torch.cat([s, scatter_sum(message, row, len(s))], 1))) * pairs.real_atoms
        return s, x


class Pairs:
    """All ordered pairs of a padded batch, with the squared distances of the input and the masks."""

    def __init__(self, x: Tensor, mask: Tensor, row: Tensor, column: Tensor) -> None:
        self.row, self.column = row, column
        self.radial = torch.sum((x[row] - x[column]) ** 2, 1, keepdim=True)
        self.real_atoms = mask.view(-1, 1).to(x.dtype)
        both = mask.unsqueeze(1) & mask.unsqueeze(2) & ~torch.eye(mask.shape[1], dtype=torch.bool)
        self.real = both.view(-1, 1).to(x.dtype)


class Original(nn.Module):
    """The network of E-NF as its authors implement it, with the weights of Enflow's network."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        self.ours, config, network = [ours], ours.config, ours.network
        self.layers = nn.ModuleList(OriginalLayer(config.node_dim, config.tanh_range) for _ in range(config.n_layers))
        self.embed, self.readout = network.embed, network.readout
        for layer, mine in zip(self.layers, network.layers, strict=True):
            _copy(layer, mine)
        self.lists: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        rows, n_atoms, _ = x.shape
        x0 = x.reshape(rows * n_atoms, 3) * mask.view(-1, 1)
        pairs = Pairs(x0, mask, *self._lists(rows, n_atoms))
        time = (1.0 - t).repeat_interleave(n_atoms).unsqueeze(1)
        s, x1 = self.embed(torch.cat([h.reshape(rows * n_atoms, -1), time], 1)), x0
        for layer in self.layers:
            s, x1 = layer(s, x1, pairs)
        outputs = (self.readout(s) * pairs.real_atoms).view(rows, n_atoms, -1)
        return -centre((x1 - x0).view(rows, n_atoms, 3), mask), -outputs[..., : h.shape[-1]]

    def _lists(self, rows: int, n_atoms: int) -> tuple[Tensor, Tensor]:
        if (rows, n_atoms) not in self.lists:  # kept from call to call, as the original keeps them
            atoms = torch.arange(rows * n_atoms).view(rows, n_atoms)
            shape = (rows, n_atoms, n_atoms)
            self.lists[rows, n_atoms] = (
                atoms.unsqueeze(2).expand(shape).reshape(-1),
                atoms.unsqueeze(1).expand(shape).reshape(-1),
            )
        return self.lists[rows, n_atoms]


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    result = values.new_zeros(size, values.shape[1])
    return result.scatter_add_(0, index.unsqueeze(1).expand_as(values), values)


@torch.no_grad()
def _copy(theirs: OriginalLayer, ours: Any) -> None:
    first = torch.cat([ours.receive.weight, ours.send.weight, ours.distance.weight], 1)
    theirs.edge[0].weight.copy_(first)
    theirs.edge[0].bias.copy_(ours.receive.bias)
    same = [
        (theirs.edge[2], ours.message), (theirs.gate[0], ours.gate), (theirs.coordinate[0], ours.coordinate),
        (theirs.coordinate[2], ours.coordinate_out), (theirs.node[0], ours.node_in), (theirs.node[2], ours.node_out),
    ]  # fmt: skip
    for linear, mine in same:
        linear.load_state_dict(mine.state_dict())


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a state at t = 0.5 of 50 molecules with the sizes of QM9, padded to the largest."""
    sizes, counts = np.array(list(MOLECULES_BY_SIZE)), np.array(list(MOLECULES_BY_SIZE.values()))
    drawn = torch.from_numpy(np.random.default_rng(seed).choice(sizes, ROWS, p=counts / counts.sum()))
    mask = torch.arange(int(drawn.max())) < drawn.unsqueeze(1)
    source = torch.Generator().manual_seed(seed)
    x = centre(torch.randn(*mask.shape, 3, generator=source), mask)
    h = torch.randn(*mask.shape, ARCHITECTURE.n_features, generator=source) * mask.unsqueeze(2)
    return torch.full((ROWS,), 0.5), x, h, mask


class Largest(TorchDispatchMode):
    """A dispatch mode that records the number of elements of the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(v.numel() for v in tree_leaves(made) if isinstance(v, Tensor))])
        return made


def largest(velocity: Velocity, state: Iterable[Tensor]) -> float:
    """Return the elements of the largest tensor, in units of pairs * hidden."""
    t, x, h, mask = state
    with Largest() as seen:
        velocity(t, x, h, mask)
    return seen.elements / (mask.numel() * mask.shape[1] * ARCHITECTURE.edge_dim)


def difference(a: Velocity, b: Velocity, state: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
    """Return the largest difference of two velocities relative to the largest value."""
    pairs = list(zip(a(*state), b(*state), strict=True))
    return max(float((p - q).abs().max() / q.abs().max()) for p, q in pairs)


def compile_flow(flow: MoleculeFlow) -> None:
    """Let a flow compute its velocity by compiled code; the first call takes a minute."""
    tensors = sorted(flow.state_dict().items())
    weights = hashlib.sha256(b"".join(tensor.numpy().tobytes() for _, tensor in tensors)).hexdigest()
    compile_velocity(flow.dynamics, flow.example(), weights)
    flow.compiled = load_compiled(flow.dynamics, flow.example(), weights)


def measure(flow: MoleculeFlow, rounds: int) -> dict[str, dict[str, Any]]:
    """Return evaluations/s, speed-up, largest tensor and difference from the original for each network."""
    ours, peer = flow.dynamics, Original(flow.dynamics)
    ways: dict[str, Velocity] = {
        "original": peer,
        "enflow": bucketed(flow.velocity),
        "enflow, eager": bucketed(ours),
        "enflow, eager, one padded batch": ours,
        "original, in size classes": bucketed(peer),
    }
    states = [batch(seed) for seed in range(2)]
    products = matrix_products(lambda: [bucketed(ours)(*state) for state in states])
    with torch.inference_mode():
        turns = {name: lambda v=velocity: [v(*state) for state in states] for name, velocity in ways.items()}
        seconds = by_turns(turns | {PRODUCTS: products}, rounds)
        speeds = {
            name: {
                "evaluations_per_second": round(len(states) / float(np.median(taken)), 2),
                "times_the_original": ratio(seconds["original"], taken),
            }
            for name, taken in seconds.items()
        }
        values = {
            name: {
                "largest_tensor": round(largest(velocity, states[0]), 3),
                "difference": max(difference(velocity, peer, state) for state in states),
            }
            for name, velocity in ways.items()
        }
        return {name: speed | values.get(name, {}) for name, speed in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="directory with the checkpoint of E-NF's authors")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given = arguments.reference is not None
    plain = FlowConfig(dynamics=ARCHITECTURE, dequantizer=DequantizerConfig("argmax_variational"))
    flow = import_en_flows(arguments.reference) if given else MoleculeFlow(plain)
    compile_flow(flow.requires_grad_(False).eval())
    ways = measure(flow, rounds=6 if arguments.quick else 20)
    weights = "E-NF's released weights" if given else "random weights (no --reference)"
    enflow = ways["enflow"]
    tensors = [way["largest_tensor"] for name, way in ways.items() if name.startswith("enflow")]
    checks = {
        "at_least_4": enflow["times_the_original"]["median"] >= REQUIRED,
        "goal_8": enflow["times_the_original"]["median"] >= GOAL,
        "no_tensor_of_pairs_by_2_hidden": max(tensors) < 2,
        "same_values": enflow["difference"] < 1e-4,
    }
    write_results(
        "velocity",
        f"Velocity of {ROWS} molecules with QM9's sizes: {weights}, float32, one thread",
        ["", "evaluations/s", "times the original", "quartiles", "largest tensor / (pairs x 64)", "difference"],
        [[name, *_cells(way)] for name, way in ways.items()],
        {"rows": ROWS, "weights": weights, "ways": ways, "checks": checks},
    )


def _cells(way: dict[str, Any]) -> list[str]:
    times = way["times_the_original"]
    spread = f"{times['low']:.2f} to {times['high']:.2f}"
    cells = [f"{way['evaluations_per_second']:.2f}", f"{times['median']:.2f}", spread]
    return (
        [*cells, f"{way['largest_tensor']:.2f}", f"{way['difference']:.0e}"]
        if "difference" in way
        else [*cells, "", ""]
    )


if __name__ == "__main__":
    main()
