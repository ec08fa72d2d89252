"""There and back: how near `decode` of `encode` comes to held-out molecules of QM9, by the solver's tolerance.

Needs the reference data: ENFLOW_SHARED names its directory, by default `shared` beside the repository.
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
"""Angstrom, of every coordinate."""


def errors(flow: MoleculeFlow, molecules: list[Molecule], tolerance: float) -> tuple[np.ndarray, int, float]:
    """The largest error of a coordinate of each molecule (angstrom), how many kept their atoms, evaluations there."""
    back = flow.decode(flow.encode(molecules, rtol=tolerance, atol=tolerance), rtol=tolerance, atol=tolerance)
    pairs = list(zip(molecules, back, strict=True))
    off = [np.abs(before.centred().positions - after.centred().positions).max() for before, after in pairs]
    same = sum(np.array_equal(before.atomic_numbers, after.atomic_numbers) for before, after in pairs)
    return np.array(off), same, float(np.mean([int(str(after.properties["nfe"])) for after in back]))


def main(quick: bool) -> None:
    flow, molecules = load(BUNDLED_WEIGHTS), held_out(4 if quick else 24)
    rows, facts = [], {}
    for tolerance in (1e-5, 1e-7, 1e-9):
        off, same, nfe = errors(flow, molecules, tolerance)
        shares = {"within": int((off < TARGET).sum()), "same_atoms": same}
        found = {**shares, "median": float(np.median(off)), "largest": float(off.max()), "nfe": round(nfe)}
        facts[f"{tolerance:g}"] = found
        rows.append([f"{tolerance:g}", *(f"{value:.3g}" for value in found.values())])
    columns = ["tolerance", f"within {TARGET:g}", "same atoms", "median error", "largest", "evaluations"]
    write_results(
        "inverse", f"There and back, {len(molecules)} molecules, angstrom", columns, rows, {"tolerances": facts}
    )


if __name__ == "__main__":
    if (SHARED / "data" / "qm9.npz").is_file():
        main("--quick" in sys.argv)
    else:
        print(f"bench_inverse: no QM9 at {SHARED}: set ENFLOW_SHARED to the directory of the reference data")
