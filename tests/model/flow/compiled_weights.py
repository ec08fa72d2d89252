"""Weights of a network that a C++ compiler translates in seconds."""

from dataclasses import replace
from pathlib import Path

from enflow.model import checkpoint
from enflow.model.config import FlowConfig
from tests.model.flow.small_networks import VECTORS, small_flow

SIZES = [3, 4, 7, 9]


def tiny_weights(folder: Path, seed: int = 0) -> None:
    """Write the weights of a flow with one small layer, float32."""
    flow = small_flow(replace(VECTORS, n_layers=1), act_norm=False).float()
    flow.dynamics.network.embed.weight.data *= 1 + seed
    dataset = checkpoint.Dataset("none", "", "none")
    assert isinstance(flow.config, FlowConfig)
    checkpoint.save(flow, folder, checkpoint.Card("tiny", "2026", "0", flow.config, dataset, 0, "MIT", {}))
