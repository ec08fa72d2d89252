"""Molecules as a table of pandas: one row each, with the identifiers and the properties by which chemists work."""

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from enflow.model.chem.analysis.descriptors import MoleculeDescriptors, describe
from enflow.model.chem.analysis.metrics import stability
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.molecule import Molecule, MoleculeLike, as_molecules
from enflow.model.errors import StructureError

NO_DESCRIPTORS = dict.fromkeys(MoleculeDescriptors.__dataclass_fields__)
"""The columns of a molecule without bonds."""


@runtime_checkable  # the type checker of the tests needs it
class Score(Protocol):
    """A likelihood, as `MoleculeFlow.log_prob` returns it."""

    @property
    def nll(self) -> float:
        """The negative log-likelihood, nats."""

    @property
    def std_error(self) -> float | None:
        """The standard error of `nll`, nats; None where it is not known."""


def to_dataframe(molecules: MoleculeLike | Iterable[MoleculeLike], scores: Sequence[Score] | None = None) -> Any:
    """Return a table of molecules as a `pandas.DataFrame`.

    Args:
        molecules: one molecule or several, of Enflow, RDKit or ASE, angstrom.
        scores: their likelihoods, as `MoleculeFlow.log_prob` returns them; None = the properties "nll" and
            "nll_std_error" of the molecules, if they have them.

    Returns:
        One row per molecule, in their order. Columns: index, seed (of a generated molecule), formula, n_atoms, smiles,
        valid, stable, nll and std_error in nats, and the fields of `MoleculeDescriptors`. A value that is not known is
        missing.

    Raises:
        ImportError: the package pandas is not installed.
        StructureError: an object is no molecule, or there is another number of scores.

    Example:
        `enflow.to_dataframe(molecules, flow.log_prob(molecules)).sort_values("nll")`
    """
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise ImportError("found no package pandas, expected it for a table: pip install pandas") from None
    given = as_molecules(molecules)
    if scores is not None and len(scores) != len(given):
        raise StructureError(f"found {len(scores)} scores of {len(given)} molecules, expected one for each")
    known: Sequence[Score | None] = scores or [None] * len(given)
    return pandas.DataFrame([_row(place, each, known[place]) for place, each in enumerate(given)])


def _row(place: int, molecule: Molecule, score: Score | None) -> dict[str, object]:
    bonds, known = infer_bonds(molecule), molecule.properties
    descriptors = describe(molecule, bonds)
    return {
        "index": known.get("index", place),
        "seed": known.get("seed"),
        "formula": molecule.formula,
        "n_atoms": molecule.n_atoms,
        "smiles": bonds.smiles,
        "valid": bonds.status == "ok",
        "stable": int(stability([molecule]).stable_atoms[0]) == molecule.n_atoms,
        "nll": score.nll if score else known.get("nll"),
        "std_error": score.std_error if score else known.get("nll_std_error"),
        **(descriptors.as_dict() if descriptors else NO_DESCRIPTORS),
    }
