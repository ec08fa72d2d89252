"""The error of `decode(encode(molecule))`, by the tolerance of the solver, for four kinds of molecules.

    python -m benchmarks.bench_inverse [MOLECULES]

Default: 67 molecules of each kind. The kinds: test molecules of QM9, samples of the flow alone and refined ones from
the same noise, and conformers by RDKit of the same test molecules.

Needs the reference data: the folder of the environment variable ENFLOW_SHARED, by default `shared` beside the checkout.
"""

import sys
from typing import Any

import numpy as np

from benchmarks.bench_bonds import SHARED, held_out
from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.checkpoint import load
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.io.smiles import read_smiles
from enflow.model.chem.io.text import ReadLimits
from enflow.model.chem.molecule import Molecule
from enflow.model.config import MAX_RETURN_ERROR
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.states import return_error
from enflow.service.settings import BUNDLED_WEIGHTS

TOLERANCES = (1e-5, 1e-7, 1e-9)


def kinds(flow: MoleculeFlow, count: int) -> dict[str, list[Molecule]]:
    """Return `count` molecules of each kind; a test molecule that RDKit cannot embed is passed over."""
    test = held_out(2 * count)
    lines = [smiles for molecule in test if (smiles := infer_bonds(molecule).smiles)]
    embedded = read_smiles("\n".join(lines), ReadLimits())
    conformers = [each for each in embedded if isinstance(each, Molecule)][:count]
    samples = flow.sample([None] * count, seed=0, refinements=0)
    refined = flow.sample([None] * count, seed=0)
    return {"test": test[:count], "samples": samples, "refined": refined, "RDKit": conformers}


def returned(flow: MoleculeFlow, molecules: list[Molecule], tolerance: float) -> dict[str, float]:
    """Return how many molecules come back, how many keep their elements, errors in angstrom, and the mean NFE."""
    latents = flow.encode(molecules, rtol=tolerance, atol=tolerance)
    decoded = flow.decode(latents, rtol=tolerance, atol=tolerance, on_mismatch="ignore")
    found = [return_error(after, before) for before, after in zip(molecules, decoded, strict=True)]
    distances = np.array([distance for distance, _ in found])
    return {
        "molecules": len(molecules),
        "within": sum(distance < MAX_RETURN_ERROR and not changed for distance, changed in found),
        "same_atoms": sum(not changed for _, changed in found),
        "median": float(np.median(distances)),
        "largest": float(distances.max()),
        "nfe": round(float(np.mean([int(str(after.properties["nfe"])) for after in decoded]))),
    }


def section(kinds: dict[str, Any]) -> str:
    """Return the table in Markdown."""
    names = {
        "test": "test molecules",
        "samples": "samples of the flow alone",
        "refined": "refined samples",
        "RDKit": "test molecules, geometry of RDKit",
    }
    heads = ["molecules", "tolerance", f"within {MAX_RETURN_ERROR:g} angstrom", "same elements", "median", "largest"]
    lines = [f"| {' | '.join([*heads, 'evaluations'])} |", "|---" * 7 + "|"]
    for kind, by_tolerance in kinds.items():
        for tolerance, one in by_tolerance.items():
            shares = f"{one['within']} of {one['molecules']} | {one['same_atoms']}"
            distances = f"{one['median']:.1g} | {one['largest']:.2g}"
            lines.append(f"| {names[kind]} | {tolerance} | {shares} | {distances} | {one['nfe']} |")
    return "\n".join(lines)


def main(count: int) -> None:
    flow = load(BUNDLED_WEIGHTS)
    facts = {
        kind: {f"{tolerance:g}": returned(flow, molecules, tolerance) for tolerance in TOLERANCES}
        for kind, molecules in kinds(flow, count).items()
    }
    rows = [
        [kind, tolerance, *(f"{value:.3g}" for value in found.values())]
        for kind, by_tolerance in facts.items()
        for tolerance, found in by_tolerance.items()
    ]
    names = ["molecules", f"within {MAX_RETURN_ERROR:g}", "same atoms", "median error", "largest", "evaluations"]
    columns = ["kind", "tolerance", *names]
    write_results("inverse", "decode(encode(x)), distances of an atom in angstrom", columns, rows, {"kinds": facts})
    write_section(DOCS / "science.md", "inverse", section(facts))


if __name__ == "__main__":
    if (SHARED / "data" / "qm9.npz").is_file():
        main(2 if "--quick" in sys.argv else int(sys.argv[1]) if sys.argv[1:] else 67)
    else:
        print(f"bench_inverse: no QM9 at {SHARED}: set ENFLOW_SHARED to the folder of the reference data")
