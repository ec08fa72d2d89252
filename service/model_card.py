"""The card of the loaded weights, as the API shows it, and where an NLL stands among held-out molecules."""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

from enflow.model.chem.elements import Vocabulary
from enflow.model.chem.particle_systems import ParticleSystem
from enflow.model.errors import WeightsError

FEWEST = 20
"""Held-out molecules of a size below which a percentile would say nothing."""

LEAST_SIGNAL = 0.1
"""Share of the variance of estimated scores that must be the molecules' own for a percentile to say anything."""


@dataclass(frozen=True)
class ModelCard:
    """What card.json says; `held_out` has the ascending NLLs of held-out molecules by their number of atoms.

    They are spread as exact NLLs are (see `sharpened`), however the table was scored.
    """

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
    def system(self) -> ParticleSystem | None:
        """What the model knows where it is one of particles."""
        config = self.document["config"]
        if config.get("kind") != "particles":
            return None
        return ParticleSystem(self.name, config["n_particles"], config["n_dims"], self.document["dataset"]["name"])

    @property
    def vocabulary(self) -> Vocabulary:
        """Elements and sizes that the model knows."""
        if self.system:
            return self.system.vocabulary
        config = self.document["config"]
        return Vocabulary(self.name, tuple(config["vocabulary"]), config["max_atoms"])

    @property
    def takes_formulas(self) -> bool:
        """Whether the elements are given to the model."""
        return bool(self.document["config"].get("dequantizer", {}).get("kind") == "given")

    @property
    def summary(self) -> dict[str, Any]:
        """The card, and of what it is one in the words of the API."""
        system, known = self.system, self.vocabulary
        if system:
            what: dict[str, Any] = {"kind": "particles", "elements": ["particle"]}
            what |= {"n_particles": system.n_particles, "n_dims": system.n_dims}
        else:
            what = {"kind": "molecules", "elements": list(known.symbols), "max_atoms": known.max_atoms, "n_dims": 3}
        return {**self.document, **what, "takes_formulas": self.takes_formulas}

    def percentile(self, n_atoms: int, nll: float) -> float | None:
        """Share in % of held-out molecules of this size with a lower NLL; None where too few are known."""
        known = self.held_out.get(n_atoms, ())
        return 100 * bisect_left(known, nll) / len(known) if len(known) >= FEWEST else None


def read_card(weights: Path) -> ModelCard:
    """Read card.json and, where it stands beside it, percentiles.json of the same weights.

    The weights are compared with their card here as well, before any engine starts, and without torch.

    Raises:
        WeightsError: there is no card, it lacks what the service shows, or the weights are not those of the card.
    """
    card = ModelCard(_read(weights / "card.json"), {})
    try:
        _ = card.name, card.sha256, card.vocabulary.symbols
    except (KeyError, TypeError, IndexError):
        raise WeightsError(
            f"{weights / 'card.json'}: expected name, weights_sha256, and in config vocabulary and max_atoms, "
            "or n_particles and n_dims of kind particles"
        ) from None
    if _sha256(weights / "weights.safetensors") != card.sha256:
        raise WeightsError(f"{weights}: weights.safetensors has another SHA-256 than card.json says; fetch both again")
    table = weights / "percentiles.json"
    return ModelCard(card.document, _held_out(table, card.sha256)) if table.exists() else card


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
    noise = document.get("std_error", {})
    spread = {int(n_atoms): sharpened(values, noise.get(n_atoms, 0.0)) for n_atoms, values in document["nll"].items()}
    return {n_atoms: values for n_atoms, values in spread.items() if values}


def sharpened(values: Sequence[float], std_error: float) -> list[float]:
    """Scores with Monte Carlo errors, ascending, spread as they would be without.

    Estimates x + e of standard error s scatter more than the x themselves; m + (x + e - m) sqrt(1 - s^2 / S^2) has the
    mean m and the variance S^2 - s^2 of the x (T. A. Louis, J. Am. Stat. Assoc. 79, 393 (1984)). None where the errors
    are nearly all that is seen.
    """
    mean, variance = fmean(values), pvariance(values)
    left = 1 - std_error**2 / variance if variance else 1.0
    return sorted(mean + (value - mean) * sqrt(left) for value in values) if left > LEAST_SIGNAL else []


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
