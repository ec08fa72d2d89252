"""The error of `decode(encode(molecule))` for test molecules of QM9, by the tolerance of the solver.

Needs the reference data: the folder of the environment variable ENFLOW_SHARED, by default `shared` beside the checkout.
"""

import sys

import numpy as np

from benchmarks.bench_bonds import SHARED, held_out
from benchmarks.measure import write_results
from enflow.model.checkpoint import load
from enflow.model.chem.molecule import Molecule
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.service.settings import BUNDLED_WEIGHTS

TARGET = 1e-3
"""Greatest error of a coordinate, angstrom."""


def errors(flow: MoleculeFlow, molecules: list[Molecule], tolerance: float) -> tuple[np.ndarray, int, float]:
    """Return each molecule's largest error of a coordinate (angstrom), the number with the same atoms, and mean NFE."""
    decoded = flow.decode(flow.encode(molecules, rtol=tolerance, atol=tolerance), rtol=tolerance, atol=tolerance)
    pairs = list(zip(molecules, decoded, strict=True))
    largest = [np.abs(before.centred().positions - after.centred().positions).max() for before, after in pairs]
    same = sum(np.array_equal(before.atomic_numbers, after.atomic_numbers) for before, after in pairs)
    return np.array(largest), same, float(np.mean([int(str(after.properties["nfe"])) for after in decoded]))


def main(quick: bool) -> None:
    flow, molecules = load(BUNDLED_WEIGHTS), held_out(4 if quick else 24)
    rows, facts = [], {}
    for tolerance in (1e-5, 1e-7, 1e-9):
        largest, same, nfe = errors(flow, molecules, tolerance)
        shares = {"within": int((largest < TARGET).sum()), "same_atoms": same}
        found = {**shares, "median": float(np.median(largest)), "largest": float(largest.max()), "nfe": round(nfe)}
        facts[f"{tolerance:g}"] = found
        rows.append([f"{tolerance:g}", *(f"{value:.3g}" for value in found.values())])
    columns = ["tolerance", f"within {TARGET:g}", "same atoms", "median error", "largest", "evaluations"]
    write_results(
        "inverse", f"decode(encode(x)), {len(molecules)} molecules, angstrom", columns, rows, {"tolerances": facts}
    )


if __name__ == "__main__":
    if (SHARED / "data" / "qm9.npz").is_file():
        main("--quick" in sys.argv)
    else:
        print(f"bench_inverse: no QM9 at {SHARED}: set ENFLOW_SHARED to the folder of the reference data")
