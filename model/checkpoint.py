"""Weights on disk: a directory with weights.safetensors and card.json, the one verified by the other."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from enflow.model.card import CARD, WEIGHTS, Card, Dataset, _replace, read_card, write_card
from enflow.model.config import FlowConfig, ParticleConfig
from enflow.model.en_flows import import_en_flows
from enflow.model.errors import WeightsError
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.particle_adapter import ParticleFlowAdapter
from enflow.model.flow.particle_flow import ParticleFlow

__all__ = [
    "Card",
    "Dataset",
    "import_en_flows",
    "load",
    "load_any",
    "load_particles",
    "read_card",
    "save",
    "write_card",
]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save(flow: MoleculeFlow | ParticleFlow, directory: str | os.PathLike[str], card: Card) -> Card:
    """Write a flow's weights and its card; returns the card as written.

    Each file replaces its predecessor at once. The card comes last, so that an interruption between the two leaves a
    pair that `load` refuses, never one that it believes.

    Args:
        card: its `config`, `dtype` and `weights_sha256` are taken from the flow.
    """
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in flow.state_dict().items()}
    content = save_tensors(tensors)
    dtype = str(next(flow.parameters()).dtype).removeprefix("torch.")
    card = replace(card, config=flow.config, dtype=dtype, weights_sha256=hashlib.sha256(content).hexdigest())
    _replace(place / WEIGHTS, content)
    write_card(place, card)
    return card


def load(
    directory: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> MoleculeFlow:
    """The flow of a weights directory, verified, in evaluation mode.

    Args:
        directory: holds weights.safetensors and card.json.
        device: where it computes.
        dtype: of its arithmetic; None = the card's.

    Raises:
        WeightsError: a file is missing, damaged, or does not fit the other.
        ConfigError: the card's `config` is not one of a flow.
    """
    card = read_card(directory)
    if not isinstance(card.config, FlowConfig):
        raise WeightsError(f"{directory} holds a model of particles, expected one of molecules; try load_particles")
    return _filled(MoleculeFlow(card.config), directory, card, device, dtype)


def load_particles(
    directory: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> ParticleFlow:
    """As `load`, the flow of a directory with weights of a particle system."""
    card = read_card(directory)
    if not isinstance(card.config, ParticleConfig):
        raise WeightsError(f"{directory} holds a model of molecules, expected one of particles; try load")
    return _filled(ParticleFlow(card.config), directory, card, device, dtype)


def load_any(
    directory: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> MoleculeFlow:
    """As `load`; a model of particles comes as one of molecules of one element."""
    card = read_card(directory)
    if isinstance(card.config, FlowConfig):
        return load(directory, device, dtype)
    return ParticleFlowAdapter(load_particles(directory, device, dtype), card.name, card.dataset.name)


Flow = TypeVar("Flow", MoleculeFlow, ParticleFlow)


def _filled(
    flow: Flow, directory: str | os.PathLike[str], card: Card, device: str | torch.device, dtype: torch.dtype | None
) -> Flow:
    path = Path(directory) / WEIGHTS
    tensors = _verified(path, card)
    _check_fit(path, tensors, flow.state_dict())
    flow.load_state_dict(tensors)
    return flow.to(device=device, dtype=dtype or DTYPES[card.dtype]).eval()


def _verified(path: Path, card: Card) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"no {path} ({error.strerror}); expected the weights that {CARD} describes") from None
    if (found := hashlib.sha256(content).hexdigest()) != card.weights_sha256:
        raise WeightsError(
            f"{path}: found SHA-256 {found} ({len(content)} bytes), {CARD} says {card.weights_sha256 or 'nothing'}: "
            f"the file is incomplete, changed, or of other weights; fetch or train it again"
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}") from None


def _check_fit(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if missing := sorted(set(expected) - set(found)):
        raise WeightsError(f"{path}: no tensor {missing[0]!r} ({len(missing)} missing), which {CARD}'s config needs")
    if unknown := sorted(set(found) - set(expected)):
        raise WeightsError(f"{path}: found tensor {unknown[0]!r}, of which {CARD}'s config knows nothing")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"{path}: found {name!r} of shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            )
        if tensor.isnan().any():
            raise WeightsError(f"{path}: found NaN in {name!r}, expected numbers")
