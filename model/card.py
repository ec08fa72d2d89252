"""The card of trained weights: card.json beside weights.safetensors."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enflow.model.config import FlowConfig, ParticleConfig, from_json, to_json
from enflow.model.errors import ConfigError, WeightsError

SCHEMA_VERSION = 1


WEIGHTS = "weights.safetensors"
CARD = "card.json"
DTYPES = ("float32", "float64")


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


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
