"""A molecule as the API shows it: formula, XYZ, bonds, SDF, stability, its score, its way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.io.xyz import write_xyz
from enflow.model.chem.molecule import Molecule
from enflow.service.chemistry.rdkit_pool import BondReport, RDKitPool
from enflow.service.model_card import ModelCard
from enflow.service.protocol.events import Frame, Scored


@dataclass(frozen=True)
class RenderedMolecule:
    """A molecule with its provenance as properties, its bonds, and the fields that every answer shows."""

    molecule: Molecule
    bonds: Bonds
    fields: Mapping[str, Any]


async def render_molecule(
    chemistry: RDKitPool, molecule: Molecule, drawing: BondReport, properties: Mapping[str, object]
) -> RenderedMolecule:
    """A molecule as every answer shows it; `properties` go into the XYZ comment and the SDF data items."""
    bonds = drawing.bonds
    whence = {**properties, "bonds": bonds.method or "failed", "smiles": bonds.smiles, "stable": drawing.stable}
    named = Molecule(molecule.atomic_numbers, molecule.positions, molecule.name, whence)
    ok = bonds.status == "ok"
    fields = {
        "kind": "molecule",
        "n_atoms": molecule.n_atoms,
        "formula": molecule.formula,
        "smiles": bonds.smiles,
        "xyz": write_xyz([named]),
        "sdf": await chemistry.write([named], [bonds], "sdf") if ok else None,
        "bonds": {
            "status": bonds.status,
            "method": bonds.method,
            "reason": bonds.reason,
            "charge": bonds.charge if ok else None,
            "fragments": bonds.fragments if ok else None,
            "rdkit": bonds.rdkit,
        },
        "valid": ok,
        "stable": drawing.stable,
        "atom_stability": drawing.atom_stability,
    }
    return RenderedMolecule(named, bonds, fields)


def score_fields(card: ModelCard, scored: Scored, n_atoms: int) -> dict[str, Any]:
    """The numbers of a score as the API names them."""
    return {
        "nll": scored.nll,
        "nll_per_atom": scored.nll / n_atoms,
        "std_error": scored.std_error,
        "parts": dict(scored.parts),
        "atom_base": [round(share, 3) for share in scored.atoms],
        "path": [[round(t, 4), round(log_density, 3)] for t, log_density in sorted(scored.path)],
        "percentile": card.percentile(n_atoms, scored.nll),
    }


def frame_document(frame: Frame) -> dict[str, Any]:
    """A frame of a molecule's way; coordinates to a ten-thousandth of an angstrom are plenty for drawing."""
    return {
        "t": round(frame.t, 6),
        "nfe": frame.nfe,
        "atomic_numbers": frame.atomic_numbers.tolist(),
        "positions": np.round(frame.positions, 4).tolist(),
        "certainty": np.round(certainty(frame.features), 3).tolist(),
    }


def certainty(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each atom's type is settled: the lead of its largest feature over the next, relative to both; 0 to 1."""
    ordered = np.sort(features, axis=-1)
    first, second = ordered[:, -1], ordered[:, -2]
    return np.asarray((first - second) / np.maximum(np.abs(first) + np.abs(second), 1e-12))
