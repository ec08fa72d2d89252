"""The card of trained weights: card.json beside weights.safetensors. No torch: the service reads cards through it."""

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from enflow.model.config import STRICT, FlowConfig, FragmentConfig, ParticleConfig, config_errors, from_json, to_json
from enflow.model.errors import ConfigError, WeightsError
from enflow.model.files import replace_file

SCHEMA_VERSION = 1

WEIGHTS = "weights.safetensors"
CARD = "card.json"

BUNDLED = Path(__file__).parents[1] / "weights"
"""The folder of the weights that come with the package: beside `model`, in a checkout and installed."""

DtypeName = Literal["float32", "float64"]


@config_errors
@dataclass(frozen=True, config=STRICT)
class Dataset:
    """The data that a model was trained on: a name, the hash of the file, and the split."""

    name: str
    sha256: str
    split: str


@config_errors
@dataclass(frozen=True, config=STRICT)
class Card:
    """The facts about a set of weights, as card.json holds them.

    Attributes:
        name: name of the weights.
        created: time of writing, ISO 8601.
        git_commit: commit of the code that trained the model.
        config: configuration of the model.
        dataset: training data.
        seed: seed of the training run.
        licence: licence of the weights.
        metrics: results by name; shares from 0 to 1, nats per molecule.
        weights_sha256: hash of weights.safetensors; `save` fills it in.
        dtype: name of the dtype of the tensors.
        units: units of positions and likelihoods.
        time_convention: meaning of the time of the flow.
        schema_version: version of the fields.
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
    dtype: DtypeName = "float32"
    units: str = "angstrom, nats"
    time_convention: str = "t = 0 base, t = 1 data"
    schema_version: int = SCHEMA_VERSION


def takes_fragments(card: Card) -> bool:
    """Return True for weights that generate the atoms around a given fragment, and nothing without one."""
    return isinstance(card.config.dynamics, FragmentConfig)


def write_card(directory: str | os.PathLike[str], card: Card) -> None:
    """Write card.json alone, for instance with the metrics of an evaluation."""
    text = json.dumps(to_json(card), indent=2, allow_nan=False, ensure_ascii=False)
    replace_file(Path(directory) / CARD, (text + "\n").encode())


def bundled_names() -> list[str]:
    """Return the names of the weights that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CARD}"))


def find_weights(weights: str | os.PathLike[str]) -> Path:
    """Return the directory of weights that are given by their directory or by the name of bundled weights.

    A directory that holds card.json comes first, also where it has the name of bundled weights.

    Raises:
        WeightsError: there is neither such a directory nor bundled weights of that name.
    """
    if not isinstance(weights, str | os.PathLike):
        raise WeightsError(f"found weights of type {type(weights).__name__}, expected a directory or a name")
    path = Path(weights)
    is_name = path.name == os.fspath(weights)
    if is_name and not (path / CARD).is_file() and path.name in bundled_names():
        return BUNDLED / path
    if not is_name or path.is_dir():
        return path
    raise WeightsError(
        f"found no weights {str(weights)!r}, expected a directory with {CARD} or one of the bundled weights: "
        f"{', '.join(bundled_names()) or 'none'}"
    )


def read_card(weights: str | os.PathLike[str]) -> Card:
    """Read and check card.json.

    Args:
        weights: a directory, or the name of bundled weights.

    Raises:
        WeightsError: the file is missing, is not JSON, or does not follow the schema.
        ConfigError: its `config` is not the configuration of a flow, for instance because of an unknown key.
    """
    path = find_weights(weights) / CARD
    document = _document(path)
    if (found := document.get("schema_version")) != SCHEMA_VERSION:
        raise WeightsError(f"{path}: found schema_version {found!r}, expected {SCHEMA_VERSION}")
    if "config" in document:
        _check_config(document["config"], f"{path}: config")
    try:
        return from_json(Card, document, str(path))
    except ConfigError as error:
        raise WeightsError(str(error)) from None


def _check_config(config: Any, where: str) -> None:
    particles = isinstance(config, dict) and config.get("kind") == ParticleConfig.kind
    from_json(ParticleConfig if particles else FlowConfig, config, where)


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
