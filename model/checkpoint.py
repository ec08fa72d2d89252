"""Weights on disk: a directory with weights.safetensors and card.json; the card holds the hash of the tensors."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from enflow.model.card import (
    CARD,
    WEIGHTS,
    Card,
    Dataset,
    DtypeName,
    find_weights,
    read_card,
    takes_fragments,
    write_card,
)
from enflow.model.config import FlowConfig, ParticleConfig
from enflow.model.en_flows import import_en_flows
from enflow.model.errors import ConfigError, WeightsError
from enflow.model.files import replace_file
from enflow.model.flow.compiled_velocity import compile_velocity, load_compiled
from enflow.model.flow.components import FlowComponents
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.particle_adapter import ParticleFlowAdapter
from enflow.model.flow.particle_flow import ParticleFlow

__all__ = [
    "Card",
    "Dataset",
    "compile_weights",
    "import_en_flows",
    "load",
    "load_any",
    "load_fragments",
    "load_molecules",
    "load_particles",
    "read_card",
    "save",
    "use_compiled",
    "write_card",
]

DTYPES: Mapping[DtypeName, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


def save(flow: MoleculeFlow | ParticleFlow | FragmentFlow, directory: str | os.PathLike[str], card: Card) -> Card:
    """Write the weights and the card of a flow.

    Each file replaces its predecessor at once. The card comes last: an interruption between the two leaves a pair that
    `load` refuses.

    Args:
        flow: the model.
        directory: where to write; it is made if it is missing.
        card: the facts; its `config`, `dtype` and `weights_sha256` are replaced by those of the flow.

    Returns:
        The card as written.
    """
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    content = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in flow.state_dict().items()})
    (dtype,) = (name for name, dtype in DTYPES.items() if dtype == next(flow.parameters()).dtype)
    card = replace(card, config=flow.config, dtype=dtype, weights_sha256=hashlib.sha256(content).hexdigest())
    replace_file(place / WEIGHTS, content)
    write_card(place, card)
    return card


@overload
def load(  # type: ignore[overload-overlap]  # the name of a folder says nothing; most hold a MoleculeFlow
    weights: Literal["qm9-fragment"], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> FragmentFlow: ...


@overload
def load(  # type: ignore[overload-overlap]
    weights: Literal["dw4", "lj13"], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> ParticleFlow: ...


@overload
def load(
    weights: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> MoleculeFlow: ...


def load(
    weights: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> MoleculeFlow | FragmentFlow | ParticleFlow:
    """Load a model in evaluation mode. The tensors are compared with the hash on the card.

    Args:
        weights: a directory with weights.safetensors and card.json, or the name of bundled weights, such as "qm9".
        device: the device that computes.
        dtype: dtype of the arithmetic; None = the card's.

    Returns:
        A `MoleculeFlow`; a `FragmentFlow` for weights that generate the atoms around a fragment, such as
        "qm9-fragment"; a `ParticleFlow` for those of particles, such as "lj13".

    Raises:
        WeightsError: there are no such weights, or a file is missing, damaged, or does not fit the other.
        ConfigError: the card's `config` is not the configuration of a flow, or the device or dtype cannot be used.
    """
    card = read_card(weights)
    if isinstance(card.config, ParticleConfig):
        return load_particles(weights, device, dtype)
    if takes_fragments(card):
        return load_fragments(weights, device, dtype)
    return load_molecules(weights, device, dtype)


def load_molecules(
    weights: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> MoleculeFlow:
    """Load a model of all atoms of molecules; arguments and errors are those of `load`."""
    place = find_weights(weights)
    card = read_card(place)
    if not isinstance(card.config, FlowConfig):
        raise WeightsError(
            f"{place} holds a model of particles, expected one of molecules; "
            "`enflow particles evaluate`, and in Python load, take it"
        )
    if takes_fragments(card):
        raise WeightsError(
            f"{place} holds a model of the atoms around a fragment, expected one of all atoms; "
            "`enflow sample --fragment`, and in Python load, take it"
        )
    flow = _load_tensors(MoleculeFlow(card.config), place, card, device, dtype)
    use_compiled(flow, card)
    return flow


def load_particles(
    weights: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> ParticleFlow:
    """Load a model of particles; arguments and errors are those of `load`."""
    place = find_weights(weights)
    card = read_card(place)
    if not isinstance(card.config, ParticleConfig):
        raise WeightsError(
            f"{place} holds a model of molecules, expected one of particles; "
            "`enflow evaluate`, and in Python load, take it"
        )
    return _load_tensors(ParticleFlow(card.config), place, card, device, dtype)


def load_fragments(
    weights: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> FragmentFlow:
    """Load a model of the atoms around a fragment; arguments and errors are those of `load`."""
    place = find_weights(weights)
    card = read_card(place)
    if not isinstance(card.config, FlowConfig) or not takes_fragments(card):
        raise WeightsError(f"{place} holds no model of the atoms around a fragment; in Python load takes it")
    flow = _load_tensors(FragmentFlow(card.config), place, card, device, dtype)
    use_compiled(flow, card)
    return flow


def load_any(
    weights: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> FlowComponents:
    """Load a model as `load` does, or a model of particles as one of molecules of a single element."""
    card = read_card(weights)
    if isinstance(card.config, FlowConfig):
        return load(weights, device, dtype)
    flow = ParticleFlowAdapter(load_particles(weights, device, dtype), card.name, card.dataset.name)
    use_compiled(flow, card)
    return flow


def use_compiled(flow: FlowComponents, card: Card) -> bool:
    """Let a flow compute its velocity by compiled code; return False if there is none for it on this machine."""
    if flow.device.type == "cpu" and flow.dtype == torch.float32:
        flow.compiled = load_compiled(flow.dynamics, flow.example(), card.weights_sha256)
    return flow.compiled is not None


def compile_weights(weights: str | os.PathLike[str]) -> Path:
    """Compile the velocity of weights for this processor, and return the path of the code; `load` uses it.

    Args:
        weights: a directory, or the name of bundled weights.

    Raises:
        WeightsError, ConfigError: see `load`.
        CompileError: there is no C++ compiler, or it failed.
    """
    flow = load_any(weights, dtype=torch.float32)
    if flow.compiled is not None:
        return flow.compiled.path
    return compile_velocity(flow.dynamics, flow.example(), read_card(weights).weights_sha256)


Flow = TypeVar("Flow", MoleculeFlow, ParticleFlow, FragmentFlow)


def _load_tensors(
    flow: Flow, directory: Path, card: Card, device: str | torch.device, dtype: torch.dtype | None
) -> Flow:
    _check_target(device, dtype)
    path = directory / WEIGHTS
    tensors = _verified(path, card)
    _check_fit(path, tensors, flow.state_dict())
    flow.load_state_dict(tensors)
    return flow.to(device=device, dtype=dtype or DTYPES[card.dtype]).eval()


def _check_target(device: str | torch.device, dtype: torch.dtype | None) -> None:
    if not getattr(dtype or torch.float32, "is_floating_point", False):
        raise ConfigError(f"found dtype {dtype!r}, expected a floating-point torch.dtype, such as torch.float64")
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"found device {device!r}, expected cpu, cuda or cuda:N") from None
    gpus = torch.cuda.device_count()
    if target.type == "cuda" and (target.index or 0) >= gpus:
        raise ConfigError(f"found device {str(target)!r} and {gpus} GPUs that PyTorch can use; expected such a GPU")


def _verified(path: Path, card: Card) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"no {path} ({error.strerror}); expected the weights that {CARD} describes") from None
    if (found := hashlib.sha256(content).hexdigest()) != card.weights_sha256:
        raise WeightsError(
            f"{path}: found SHA-256 {found} ({len(content)} bytes), {CARD} says {card.weights_sha256 or 'nothing'}: "
            f"the file is incomplete, changed, or belongs to other weights; fetch or train it again"
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}") from None


def _check_fit(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if missing := sorted(set(expected) - set(found)):
        raise WeightsError(f"{path}: no tensor {missing[0]!r} ({len(missing)} missing), which {CARD}'s config needs")
    if unknown := sorted(set(found) - set(expected)):
        raise WeightsError(f"{path}: found tensor {unknown[0]!r}, which {CARD}'s config does not have")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"{path}: found {name!r} of shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            )
        if tensor.isnan().any():
            raise WeightsError(f"{path}: found NaN in {name!r}, expected numbers")
