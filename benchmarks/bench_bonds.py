"""Bond inference on held-out QM9: share of geometries that give a valid molecule in one piece, methods, times.

The benchmark needs the reference data; ENFLOW_SHARED names the directory, by default `shared` beside the repository.
"""

import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from benchmarks.measure import tell
from enflow.model.chem.bonds import Bonds, infer_bonds, to_mol
from enflow.model.chem.molecule import Molecule

SHARED = Path(os.environ.get("ENFLOW_SHARED", Path(__file__).resolve().parents[2] / "shared"))
TARGET = 0.995


def held_out(count: int) -> list[Molecule]:
    """Return molecules of the test split in a fixed random order."""
    data = np.load(SHARED / "data" / "qm9.npz")
    ends, sizes = np.cumsum(data["num_atoms"], dtype=np.int64), data["num_atoms"]
    numbers, positions = data["atomic_numbers"], data["positions"]
    test = np.random.default_rng(0).permutation(np.flatnonzero(data["split"] == 2))[:count]
    return [Molecule(numbers[a], positions[a]) for a in (slice(ends[i] - sizes[i], ends[i]) for i in test)]


def plain(molecule: Molecule) -> bool:
    """Return True if DetermineBonds with its defaults finds a molecule in one piece."""
    mol = to_mol(molecule, Bonds("failed", rdBase.rdkitVersion))
    try:
        rdDetermineBonds.DetermineBonds(mol, charge=0, maxIterations=1000)
    except (ValueError, RuntimeError):
        return False
    return len(Chem.GetMolFrags(mol)) == 1


def main(quick: bool) -> None:
    molecules = held_out(200 if quick else 2000)
    with rdBase.BlockLogs():
        alone = sum(plain(molecule) for molecule in molecules) / len(molecules)
    inferred, seconds = [], []
    for molecule in molecules:
        begin = time.process_time()
        inferred.append(infer_bonds(molecule))
        seconds.append(time.process_time() - begin)
    milliseconds = 1e3 * np.array(seconds)
    methods = Counter(bonds.method or "none" for bonds in inferred)
    share = sum(bonds.whole for bonds in inferred) / len(inferred)
    facts = {
        "molecules": len(molecules),
        "sound_and_whole": share,
        "target": TARGET,
        "plain_determine_bonds": alone,
        "charged_atoms": sum(any(bonds.charges) for bonds in inferred),
        "methods": dict(methods),
        "median_ms": round(float(np.median(milliseconds)), 3),
        "p99_ms": round(float(np.quantile(milliseconds, 0.99)), 2),
        "max_ms": round(float(milliseconds.max()), 2),
        "rdkit": rdBase.rdkitVersion,
    }
    rows = [[method, str(count), f"{100 * count / len(molecules):.2f} %"] for method, count in methods.most_common()]
    rows.append(
        ["valid, one piece", str(round(share * len(molecules))), f"{100 * share:.2f} % (target {100 * TARGET:g} %)"]
    )
    rows.append(["DetermineBonds alone", str(round(alone * len(molecules))), f"{100 * alone:.2f} %"])
    rows.append(["median, p99, most", "", " ".join(f"{facts[key]} ms" for key in ("median_ms", "p99_ms", "max_ms"))])
    tell("bonds", "Bonds from geometry", ["method", "molecules", "share"], rows, facts)


if __name__ == "__main__":
    if (SHARED / "data" / "qm9.npz").is_file():
        main("--quick" in sys.argv)
    else:
        print(f"bench_bonds: no QM9 at {SHARED}: set ENFLOW_SHARED to the directory of the reference data")
