"""Weights on disk: a directory with weights.safetensors and card.json, the one verified by the other."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from enflow.model.config import FlowConfig, ParticleConfig, from_json, to_json
from enflow.model.en_flows import import_en_flows
from enflow.model.errors import ConfigError, WeightsError
from enflow.model.flow.particle_adapter import ClusterFlow
from enflow.model.flow.molecule_flow import MoleculeFlow
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

SCHEMA_VERSION = 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}
WEIGHTS, CARD = "weights.safetensors", "card.json"


@dataclass(frozen=True)
class Dataset:
    """What a model was trained on: a name, the hash of the file, and how it was split."""

    name: str
    sha256: str
    split: str


@dataclass(frozen=True)
class Card:
    """What is known about a set of weights, as card.json has it.

    Attributes:
        created: time of writing, ISO 8601.
        git_commit: of the code that trained it.
        metrics: by name; shares from 0 to 1, nats per molecule.
        weights_sha256: of weights.safetensors; `save` fills it in.
    """

    name: str
    created: str
    git_commit: str
    config: FlowConfig | ParticleConfig
    dataset: Dataset
    seed: int
    licence: str
    metrics: dict[str, Any]
    weights_sha256: str = ""
    dtype: str = "float32"
    units: str = "angstrom, nats"
    time_convention: str = "t = 0 base, t = 1 data"
    schema_version: int = SCHEMA_VERSION


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


def write_card(directory: str | os.PathLike[str], card: Card) -> None:
    """Write card.json alone, for instance with the metrics of an evaluation."""
    text = json.dumps(to_json(card), indent=2, allow_nan=False, ensure_ascii=False)
    _replace(Path(directory) / CARD, (text + "\n").encode())


def read_card(directory: str | os.PathLike[str]) -> Card:
    """Read and check card.json.

    Raises:
        WeightsError: there is none, it is not JSON, or it does not follow the schema.
        ConfigError: its `config` is not one of a flow, for instance by an unknown key.
    """
    path = Path(directory) / CARD
    document = _document(path)
    if (found := document.get("schema_version")) != SCHEMA_VERSION:
        raise WeightsError(f"{path}: found schema_version {found!r}, expected {SCHEMA_VERSION}")
    if "config" in document:
        config = document["config"]
        particles = isinstance(config, dict) and config.get("kind") == ParticleConfig.kind
        from_json(ParticleConfig if particles else FlowConfig, config, f"{path}: config")
    try:
        card = from_json(Card, document, str(path))
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    if card.dtype not in DTYPES:
        raise WeightsError(f"{path}: found dtype {card.dtype!r}, expected {' or '.join(DTYPES)}")
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
    return ClusterFlow(load_particles(directory, device, dtype), card.name, card.dataset.name)


Flow = TypeVar("Flow", MoleculeFlow, ParticleFlow)


def _filled(
    flow: Flow, directory: str | os.PathLike[str], card: Card, device: str | torch.device, dtype: torch.dtype | None
) -> Flow:
    path = Path(directory) / WEIGHTS
    tensors = _verified(path, card)
    _check_fit(path, tensors, flow.state_dict())
    flow.load_state_dict(tensors)
    return flow.to(device=device, dtype=dtype or DTYPES[card.dtype]).eval()


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"no {path} ({error.strerror}); expected a directory with {WEIGHTS} and {CARD}") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise WeightsError(f"{path}: found a {type(document).__name__}, expected an object")
    return document


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


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
