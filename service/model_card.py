"""The card of served weights: what `GET /models` shows, and the place of an NLL among held-out molecules."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from pathlib import Path
from statistics import fmean, linear_regression, pvariance
from typing import Any

from enflow.model.card import WEIGHTS, Card, read_card, takes_fragments
from enflow.model.chem.elements import Vocabulary
from enflow.model.chem.particle_systems import ParticleSystem
from enflow.model.config import ParticleConfig
from enflow.model.config_json import to_json
from enflow.model.errors import WeightsError

PERCENTILES = "percentiles.json"

FEWEST = 20
"""The number of held-out molecules below which there is no percentile."""

NEAR = 2
"""The largest difference in atoms at which molecules of another size complete those of a size with few."""

LEAST_SIGNAL = 0.1
"""Smallest share of the variance of scores that is not Monte Carlo error; below it there is no percentile."""


@dataclass(frozen=True)
class ModelCard:
    """The card of weights, with the scores of held-out molecules.

    Attributes:
        card: the content of card.json.
        held_out: ascending NLLs of held-out molecules, in nats, by their number of atoms, for the sizes of which there
            are enough; without the spread by Monte Carlo errors (see `sharpened`).
    """

    card: Card
    held_out: Mapping[int, Sequence[float]]

    @cached_property
    def name(self) -> str:
        """The name of the weights."""
        return self.card.name

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the weights."""
        return self.card.weights_sha256

    @property
    def system(self) -> ParticleSystem | None:
        """The system of a model of particles; None for a model of molecules."""
        config = self.card.config
        if not isinstance(config, ParticleConfig):
            return None
        return ParticleSystem(self.name, config.n_particles, config.n_dims, self.card.dataset.name)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The elements and the sizes that the model knows."""
        config = self.card.config
        if isinstance(config, ParticleConfig):
            return ParticleSystem(self.name, config.n_particles, config.n_dims).vocabulary
        return Vocabulary(self.name, config.vocabulary, config.max_atoms)

    @property
    def takes_formulas(self) -> bool:
        """True where the model generates molecules of a given formula."""
        config = self.card.config
        return not isinstance(config, ParticleConfig) and config.dequantizer.kind == "given"

    @cached_property
    def takes_fragments(self) -> bool:
        """True where the model generates the atoms around a given fragment, and nothing without one."""
        return takes_fragments(self.card)

    @property
    def kind(self) -> str:
        """The kind of the model in the words of the API: molecules, fragment or particles."""
        return "particles" if self.system else "fragment" if self.takes_fragments else "molecules"

    @property
    def summary(self) -> dict[str, Any]:
        """The card with the kind, the elements and the size of the model in the words of the API."""
        system, known = self.system, self.vocabulary
        if system:
            facts: dict[str, Any] = {"elements": ["particle"]}
            facts |= {"n_particles": system.n_particles, "n_dims": system.n_dims}
        else:
            facts = {"elements": list(known.symbols), "max_atoms": known.max_atoms, "n_dims": 3}
        return {**to_json(self.card), "kind": self.kind, **facts, "takes_formulas": self.takes_formulas}


def read_model_card(weights: Path) -> ModelCard:
    """Read card.json and, if there is one for the same weights, percentiles.json.

    The hash of the weights is compared with the card here as well: before an engine starts, and without torch.

    Raises:
        WeightsError: the card or the weights are missing or damaged, or the weights are not those of the card.
    """
    card = read_card(weights)
    if _sha256(weights / WEIGHTS) != card.weights_sha256:
        raise WeightsError(
            f"{weights / WEIGHTS}: found another SHA-256 than card.json has, expected the weights of the card; "
            "download both again"
        )
    table = weights / PERCENTILES
    return ModelCard(card, _held_out(table, card.weights_sha256) if table.exists() else {})


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(
            f"{file} cannot be read ({type(error).__name__}); expected the weights of the card"
        ) from None


def _held_out(table: Path, sha256: str) -> dict[int, list[float]]:
    document = _read_table(table)
    if document.get("weights_sha256") != sha256:
        return {}  # the table belongs to other weights
    noise = {int(n_atoms): error for n_atoms, error in document.get("std_error", {}).items()}
    completed = complete({int(n_atoms): values for n_atoms, values in document["nll"].items()})
    spread = {n_atoms: sharpened(values, noise.get(n_atoms, 0.0)) for n_atoms, values in completed.items()}
    return {n_atoms: values for n_atoms, values in spread.items() if values}


def complete(scores: Mapping[int, Sequence[float]]) -> dict[int, list[float]]:
    """Return the scores for each size with enough of them; the nearest sizes complete a size with few.

    The scores of another size are shifted by the slope of a straight line through the means of the sizes with enough.

    Args:
        scores: NLLs in nats, by the number of atoms.
    """
    means = {n_atoms: fmean(values) for n_atoms, values in scores.items() if len(values) >= FEWEST}
    slope = linear_regression(list(means), list(means.values())).slope if len(means) > 1 else 0.0
    found = {}
    for n_atoms in scores:
        values = list(scores[n_atoms])
        for distance in range(1, NEAR + 1) if means else ():
            if len(values) < FEWEST:
                near = (n_atoms - distance, n_atoms + distance)
                values += [nll + slope * (n_atoms - other) for other in near for nll in scores.get(other, ())]
        if len(values) >= FEWEST:
            found[n_atoms] = values
    return found


def sharpened(values: Sequence[float], std_error: float) -> list[float]:
    """Return scores in ascending order, with the spread that they would have without Monte Carlo errors.

    Estimates x + e with errors of standard deviation s scatter more than the x. m + (x + e - m) sqrt(1 - s^2 / S^2) has
    the mean m and the variance S^2 - s^2 of the x (T. A. Louis, J. Am. Stat. Assoc. 79, 393 (1984)).

    Args:
        values: estimated NLLs, in nats.
        std_error: the standard deviation s of their errors, in nats.

    Returns:
        An empty list where nearly all of the spread is error.
    """
    mean, variance = fmean(values), pvariance(values)
    left = 1 - std_error**2 / variance if variance else 1.0
    return sorted(mean + (value - mean) * sqrt(left) for value in values) if left > LEAST_SIGNAL else []


def _read_table(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read ({type(error).__name__}); expected a table of NLLs") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{file}: found a {type(found).__name__}, expected an object")
    return found
