"""The documents of the service as objects of the library."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from enflow.model.chem.elements import ATOMIC_NUMBERS
from enflow.model.chem.molecule import Molecule, Molecules

Json = dict[str, Any]

FORMS = {"kind", "n_atoms", "n_particles", "formula", "xyz", "sdf"}
"""The fields of a document that a Molecule has itself, or that are forms of it."""


class GeneratedMolecules(Molecules):
    """Generated molecules in the order of the answer, which a notebook shows in 3D.

    Attributes:
        seed: (seed, index) fixes each molecule.
        model: name and sha256 of the weights.
        failed: the molecules that could not be generated, each with its reason.
        attempts: the counts of computed, found and rejected molecules; None for an interpolation.
        usage: the cost.
        warnings: structures of an interpolation that do not come back from their own latent.
        documents: the documents of the molecules as the service sent them, with their SDF records.
    """

    def __init__(self, documents: Sequence[Json], answer: Mapping[str, Any]) -> None:
        super().__init__(molecule(each) for each in documents)
        self.documents = documents
        self.seed: int = answer["seed"]
        self.model: Mapping[str, str] = answer["model"]
        self.failed: Sequence[Json] = answer.get("failed", [])
        self.attempts: Json | None = answer.get("attempts")
        self.usage: Json = answer["usage"]
        self.warnings: Sequence[str] = answer.get("warnings", [])


@dataclass(frozen=True)
class MoleculeScore:
    """The negative log-likelihood bound of a structure, in nats; its attributes have the names of `Likelihood`.

    Attributes:
        nll: the bound; NaN where it could not be computed.
        std_error: its standard error; None where it is not known.
        parts: the terms of `nll`.
        percentile: the share in % of held-out molecules of the same size with a lower NLL.
        error: the reason why there is no NLL; empty where there is one.
        document: the document as the service sent it.
    """

    nll: float
    std_error: float | None
    parts: Mapping[str, float]
    percentile: float | None
    error: str
    document: Json

    @property
    def log_prob(self) -> float:
        """The negative of `nll`."""
        return -self.nll


def molecule(document: Mapping[str, Any]) -> Molecule:
    """Return the molecule of a document, with the other fields that are single values as properties.

    The properties have the names that they have in files: the standard error is `nll_std_error`. Particles are atoms of
    argon, in units of their potential.
    """
    rows = [line.split() for line in document["xyz"].splitlines()[2:]]
    numbers = [ATOMIC_NUMBERS[symbol] for symbol, *_ in rows]
    positions = [[float(value) for value in row[1:4]] for row in rows]
    return Molecule(numbers, positions, properties=dict(_facts(document)))


def score(document: Json) -> MoleculeScore:
    """Return the score of a document."""
    if "error" in document:
        return MoleculeScore(float("nan"), None, {}, None, document["error"]["detail"], document)
    percentile = document.get("percentile")
    return MoleculeScore(document["nll"], document["std_error"], document["parts"], percentile, "", document)


def _facts(document: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    for name, value in document.items():
        if name == "bonds":
            yield name, value["method"] or value["status"]
        elif name == "properties" and value:
            yield from value.items()
        elif name == "std_error":
            yield "nll_std_error", value
        elif name not in FORMS and not isinstance(value, list | dict):
            yield name, value
