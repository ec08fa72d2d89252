"""The card of the loaded weights, as the API shows it, and where an NLL stands among held-out molecules."""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.chem.elements import Vocabulary
from model.errors import WeightsError

FEWEST = 20
"""Held-out molecules of a size below which a percentile would say nothing."""


@dataclass(frozen=True)
class Card:
    """What card.json says; `held_out` has the ascending NLLs of held-out molecules by their number of atoms."""

    document: Mapping[str, Any]
    held_out: Mapping[int, Sequence[float]]

    @property
    def name(self) -> str:
        """Name of the weights."""
        return str(self.document["name"])

    @property
    def sha256(self) -> str:
        """Hash of the weights."""
        return str(self.document["weights_sha256"])

    @property
    def vocabulary(self) -> Vocabulary:
        """Elements and sizes that the model knows."""
        config = self.document["config"]
        return Vocabulary(self.name, tuple(config["vocabulary"]), config["max_atoms"])

    def percentile(self, n_atoms: int, nll: float) -> float | None:
        """Share in % of held-out molecules of this size with a lower NLL; None where too few are known."""
        known = self.held_out.get(n_atoms, ())
        return 100 * bisect_left(known, nll) / len(known) if len(known) >= FEWEST else None


def read_card(weights: Path) -> Card:
    """Read card.json and, where it stands beside it, percentiles.json of the same weights.

    The weights are compared with their card here as well, before any engine starts, and without torch.

    Raises:
        WeightsError: there is no card, it lacks what the service shows, or the weights are not those of the card.
    """
    card = Card(_read(weights / "card.json"), {})
    try:
        _ = card.name, card.sha256, card.vocabulary.symbols
    except (KeyError, TypeError, IndexError):
        raise WeightsError(
            f"{weights / 'card.json'}: expected name, weights_sha256, config.vocabulary and max_atoms"
        ) from None
    if _sha256(weights / "weights.safetensors") != card.sha256:
        raise WeightsError(f"{weights}: weights.safetensors has another SHA-256 than card.json says; fetch both again")
    table = weights / "percentiles.json"
    return Card(card.document, _held_out(table, card.sha256)) if table.exists() else card


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(
            f"{file} cannot be read ({type(error).__name__}); expected the weights of the card"
        ) from None


def _held_out(table: Path, sha256: str) -> dict[int, list[float]]:
    document = _read(table)
    if document.get("weights_sha256") != sha256:
        return {}  # a table of other weights is no table
    return {int(n_atoms): sorted(values) for n_atoms, values in document["nll"].items()}


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{file} cannot be read ({type(error).__name__}); expected the card of trained weights"
        ) from None
    if not isinstance(found, dict):
        raise WeightsError(f"{file}: found a {type(found).__name__}, expected an object")
    return found
