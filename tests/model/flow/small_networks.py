"""Small dynamics with weights large enough to show their mistakes, and flows around them."""

from dataclasses import replace

import torch
from torch import nn

from enflow.model.config import (
    DequantizerConfig,
    DynamicsConfig,
    EGNNConfig,
    FlowConfig,
    FragmentConfig,
    GNNConfig,
    KernelConfig,
    VectorEGNNConfig,
)
from enflow.model.flow import dynamics
from enflow.model.flow.molecule_flow import MoleculeFlow

OURS = EGNNConfig(node_dim=12, edge_dim=6, n_layers=2, n_radial=4, n_frequencies=2)
ORIGINAL = EGNNConfig(
    n_features=6, node_dim=8, edge_dim=8, n_layers=2, n_radial=0, layer_norm=False, tanh_range=2.5, message_scale=1.0,
    n_frequencies=0, size_input=False, output="velocity", reverse=True,
)  # fmt: skip
PARTICLES = replace(OURS, n_features=0, output="velocity")
VECTORS = VectorEGNNConfig(node_dim=12, edge_dim=6, n_vectors=3, n_layers=2, n_radial=4, n_frequencies=2)
FRAGMENT = FragmentConfig(node_dim=12, edge_dim=6, n_vectors=3, n_layers=2, n_radial=4, n_frequencies=2)
GRAPH = GNNConfig(node_dim=12, n_layers=2)
CONFIGS: dict[str, list[DynamicsConfig]] = {
    "egnn": [
        OURS,
        replace(OURS, odd_types=(0, 2, 4)),
        replace(OURS, output="velocity", gate=False, tanh_range=None),
        ORIGINAL,
        PARTICLES,
    ],
    "vector_egnn": [
        VECTORS,
        replace(VECTORS, odd_types=(0, 2, 4), move_scale=0.3),
        replace(VECTORS, output="still"),
        replace(VECTORS, n_features=0, output="velocity"),
    ],
    "fragment": [FRAGMENT, replace(FRAGMENT, odd_types=(0, 2, 4))],
    "gnn": [GRAPH, replace(GRAPH, gate=False), replace(GRAPH, n_features=5)],
    "kernel": [KernelConfig(n_radial=12, n_times=4)],
}
"""By kind; a kind of the registry without an entry is tested as its configuration's defaults make it."""


def configs() -> list[DynamicsConfig]:
    """Configurations that cover every dynamics in the registry."""
    return [config for kind, cls in dynamics.REGISTRY.items() for config in CONFIGS.get(kind, [cls.config_class()])]


def perturbed(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 with noise on every parameter: at initialisation positions would hardly move."""
    source = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
    return module.requires_grad_(False).eval()


def small_flow(config: DynamicsConfig = OURS, act_norm: bool = True) -> MoleculeFlow:
    """A MoleculeFlow around a small dynamics; its dequantizer has the features of the dynamics."""
    given = getattr(config, "output", None) == "still"
    kind = "given" if given else "truncated" if config.n_features == 5 else "argmax_variational"
    dequantizer = DequantizerConfig(kind, node_dim=8, n_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = MoleculeFlow(FlowConfig(dynamics=config, dequantizer=dequantizer, act_norm=act_norm and not given))
    perturbed(flow)
    return flow
