"""Molecules and their scores as response documents."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from enflow.model.chem.analysis.ranking import sort_key
from enflow.model.chem.bonds import Bonds
from enflow.model.chem.connectivity import in_one_piece
from enflow.model.chem.io.sdf import sdf_record
from enflow.model.chem.io.xyz import write_xyz
from enflow.model.chem.molecule import Molecule
from enflow.service.chemistry.rdkit_pool import BondReport
from enflow.service.model_card import ModelCard
from enflow.service.protocol.events import Failed, Frame, Sampled, Scored
from enflow.service.protocol.requests import EstimatorOptions
from enflow.service.schemas.properties import PropertiesOut
from enflow.service.schemas.responses import (
    BondsOut,
    FrameOut,
    MoleculeOut,
    ParticleScoreOut,
    ParticlesOut,
    PartsOut,
    ScoreOut,
    StructureOut,
)

Document = MoleculeOut | ParticlesOut | ScoreOut | ParticleScoreOut
D_co = TypeVar("D_co", bound=Document, covariant=True)
D = TypeVar("D", bound=Document)

SOLVED = "success"
"""The solver status of every result: a path that the solver did not finish gives none but `Failed`."""


@dataclass(frozen=True)
class RenderedMolecule(Generic[D_co]):
    """A molecule with its provenance as properties, its bonds, and its response document.

    Attributes:
        sdf: the SDF record; None where it has to be written by RDKit.
    """

    molecule: Molecule
    bonds: Bonds
    sdf: str | None
    document: D_co


@dataclass(frozen=True)
class SampleResult:
    """A generated molecule: the event of the engine, its bonds, its NLL if one was asked for, and its provenance.

    Attributes:
        sampler: temperature and refinements, where they are not 1 and 0.
        given: the number of its first atoms that are a fragment which was given.
        relation: the share of the path between its parents, its distances from them, and what it kept of its parent.
    """

    sampled: Sampled
    molecule: Molecule
    report: BondReport
    seed: int
    tolerance: float
    sampler: Mapping[str, float] = field(default_factory=dict)
    score: Scored | Failed | None = None
    describes: bool = False
    given: int = 0
    relation: Mapping[str, object] = field(default_factory=dict)

    @property
    def scored(self) -> Scored | None:
        """The NLL, if it was computed."""
        return self.score if isinstance(self.score, Scored) else None

    def properties(self, card: ModelCard) -> dict[str, object]:
        """Return the provenance that goes into XYZ comments and SDF data items."""
        score = self.scored
        return {
            "seed": self.seed,
            "index": self.sampled.index,
            "model": card.name,
            "sha256": card.sha256,
            "tolerance": self.tolerance,
            **self.sampler,
            "nfe": self.sampled.nfe,
            "solver_status": SOLVED,
            **({"nll": score.nll, "nll_std_error": score.std_error} if score else {}),
            **self.completion(),
            **self.relation,
            **(self.report.descriptors.as_dict() if self.report.descriptors else {}),
        }

    def fields(self) -> dict[str, Any]:
        """Return the fields that molecules and particles share."""
        found = {"index": self.sampled.index, "seed": self.seed, "nfe": self.sampled.nfe}
        reason = {"nll": None, "nll_error": self.score.message} if isinstance(self.score, Failed) else {}
        return {**found, "solver_status": SOLVED, **reason, **self.completion(), **self.relation}

    def completion(self) -> dict[str, Any]:
        """Return the fields of a molecule that grew from a fragment; none for another."""
        if not self.given:
            return {}
        bonds = self.report.bonds
        connected = bonds.fragments == 1 if bonds.status == "ok" else in_one_piece(self.molecule)
        found = {"fragment_atoms": self.given, "connected": connected}
        return {**found, "nll_of": "rest given fragment"} if self.scored else found


@dataclass(frozen=True)
class ScoreResult:
    """A scored structure: the event of the engine, its bonds, the request, and the name of its file."""

    index: int
    molecule: Molecule
    report: BondReport
    scored: Scored
    seed: int
    options: EstimatorOptions
    file: str | None = None

    def properties(self, card: ModelCard) -> dict[str, object]:
        """Return the score and its provenance, in names that leave the provenance of a sample in the file as it is."""
        score = {"nll": self.scored.nll, "nll_std_error": self.scored.std_error}
        origin = {"seed": self.seed, "index": self.index, "model": card.name, "sha256": card.sha256}
        effort = {"tolerance": self.options.rtol, "nfe": self.scored.nfe, "solver_status": SOLVED}
        return {**score, **{f"score_{name}": value for name, value in {**origin, **effort}.items()}}

    def fields(self) -> dict[str, Any]:
        """Return the fields that molecules and particles share."""
        return {
            "index": self.index,
            **({"file": self.file} if self.file else {}),
            "name": self.molecule.name,
            "data": dict(self.molecule.properties),
            "divergence": self.options.divergence,
            "probes": self.options.probes_per_node,
            "draws": self.scored.draws,
            "nfe": self.scored.nfe,
            "solver_status": SOLVED,
            "quadrature_error": self.scored.quadrature_error,
        }


def render_sample(card: ModelCard, result: SampleResult) -> RenderedMolecule[MoleculeOut]:
    """Return a generated molecule as every response shows it."""
    molecule = _with_properties(result.molecule, result.report, result.properties(card))
    numbers = score_fields(card, result.scored, molecule.n_atoms - result.given) if result.scored else {}
    frames: dict[str, Any] = {"frames": [render_frame(card, each) for each in result.sampled.frames]}
    described = result.report.descriptors
    properties: dict[str, Any] = {"properties": PropertiesOut(**described.as_dict()) if described else None}
    document = MoleculeOut(
        **structure_fields(molecule, result.report),
        **result.fields(),
        **numbers,
        **(frames if result.sampled.frames else {}),
        **(properties if result.describes else {}),
    )
    return rendered(molecule, result.report, document)


def render_score(card: ModelCard, result: ScoreResult) -> RenderedMolecule[ScoreOut]:
    """Return a scored structure as every response shows it."""
    molecule = _with_properties(result.molecule, result.report, result.properties(card))
    document = ScoreOut(
        **structure_fields(molecule, result.report),
        **result.fields(),
        **score_fields(card, result.scored, molecule.n_atoms),
    )
    return rendered(molecule, result.report, document)


def rendered(molecule: Molecule, report: BondReport, document: D) -> RenderedMolecule[D]:
    """Return a molecule with its SDF record and its document."""
    record = document.sdf if isinstance(document, StructureOut) else None
    if record is None and report.mol_block:
        record = sdf_record(report.mol_block, molecule, report.bonds)
    return RenderedMolecule(molecule, report.bonds, record, document)


def structure_fields(molecule: Molecule, report: BondReport) -> dict[str, Any]:
    """Return the fields of `StructureOut` without the index."""
    bonds = report.bonds
    return {
        "kind": "molecule",
        "n_atoms": molecule.n_atoms,
        "formula": molecule.formula,
        "smiles": bonds.smiles,
        "xyz": write_xyz([molecule]),
        "sdf": sdf_record(report.mol_block, molecule, bonds) if bonds.status == "ok" and report.mol_block else None,
        "bonds": _render_bonds(bonds),
        "valid": bonds.valid,
        "stable": report.stable,
        "stable_reason": None if report.stable else _unstable(report),
        "atom_stability": report.atom_stability,
    }


def _unstable(report: BondReport) -> str:
    return (
        f"{report.unstable_atoms} of {report.n_atoms} atoms do not have their valence by a table of bond lengths; this "
        "is a convention, by which some real molecules are not stable either"
    )


def score_fields(card: ModelCard, scored: Scored, n_atoms: int) -> dict[str, Any]:
    """Return the numbers of a score by their names in the responses."""
    return {
        "nll": scored.nll,
        "nll_per_atom": scored.nll / n_atoms,
        "std_error": scored.std_error,
        "parts": PartsOut(**scored.parts),
        "percentile": percentile(card.held_out.get(n_atoms, ()), scored.nll),
        **trajectory_fields(scored),
    }


def percentile(held_out: Sequence[float], nll: float) -> float | None:
    """Return the share in % of held-out molecules with a lower NLL; None where none are known.

    Args:
        held_out: the NLLs of held-out molecules of the same size in ascending order, nats.
        nll: the NLL of the molecule, nats.
    """
    return 100 * bisect_left(held_out, nll) / len(held_out) if held_out else None


def trajectory_fields(scored: Scored) -> dict[str, Any]:
    """Return the share of each atom in the NLL and the density along the path, rounded for display."""
    return {
        "atom_base": [round(share, 3) for share in scored.atoms],
        "path": [(round(t, 4), round(log_density, 3)) for t, log_density in sorted(scored.path)],
    }


def render_frame(card: ModelCard, frame: Frame) -> FrameOut:
    """Return a state along the path; four decimals of an angstrom are enough for a drawing."""
    lead = certainty(frame.features, len(card.vocabulary.symbols))
    return FrameOut(
        t=round(frame.t, 6),
        nfe=frame.nfe,
        certainty=None if lead is None else np.round(lead, 3).tolist(),
        atomic_numbers=frame.atomic_numbers.tolist(),
        positions=[(x, y, z) for x, y, z in np.round(frame.positions, 4).tolist()],
    )


def certainty(features: NDArray[np.float64], n_types: int) -> NDArray[np.float64] | None:
    """Return the lead of the largest type feature over the next, relative to both, of each atom (N,), from 0 to 1.

    Args:
        features: (N, F); the first `n_types` are one number per atom type, further ones are not compared.
        n_types: the number of atom types.

    Returns:
        None where a model has fewer features than types, or one type only: then there is no lead.
    """
    if n_types < 2 or features.shape[-1] < n_types:
        return None
    ordered = np.sort(features[:, :n_types], axis=-1)
    first, second = ordered[:, -1], ordered[:, -2]
    return np.asarray((first - second) / np.maximum(np.abs(first) + np.abs(second), 1e-12))


def sorted_by_index(molecules: Sequence[RenderedMolecule[D]]) -> list[RenderedMolecule[D]]:
    """Return molecules in the order of their index."""
    return sorted(molecules, key=lambda each: each.document.index)


def in_order(molecules: Sequence[RenderedMolecule[D]], sort: str | None) -> list[RenderedMolecule[D]]:
    """Return molecules in the order of a key, by index without one."""
    found = sorted_by_index(molecules)
    return sorted(found, key=lambda each: sort_key(each.molecule, sort)) if sort else found


def _with_properties(molecule: Molecule, report: BondReport, properties: Mapping[str, object]) -> Molecule:
    bonds = report.bonds
    found = {"bonds": bonds.outcome, "smiles": bonds.smiles, "valid": bonds.valid, "stable": report.stable}
    computed = {"formula": molecule.formula, "n_atoms": molecule.n_atoms}
    outdated = ("nll_of", "std_error", "percentile", "bond_status", "bond_method", "bond_reason", "rdkit")
    given = {name: computed.get(name, said) for name, said in molecule.properties.items() if name not in outdated}
    facts = {**given, **properties, **found}
    return Molecule(molecule.atomic_numbers, molecule.positions, molecule.name, facts)


def _render_bonds(bonds: Bonds) -> BondsOut:
    ok = bonds.status == "ok"
    return BondsOut(
        status=bonds.status,
        method=bonds.method,
        reason=bonds.reason,
        charge=bonds.charge if ok else None,
        fragments=bonds.fragments if ok else None,
        rdkit=bonds.rdkit,
    )
