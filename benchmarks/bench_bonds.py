"""Bond inference on test molecules of QM9: share of valid molecules in one piece, methods used, and time.

Needs the reference data: the folder of the environment variable ENFLOW_SHARED, by default `shared` beside the checkout.
"""

import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from benchmarks.measure import write_results
from enflow.model.chem.bonds import Bonds, infer_bonds, to_mol
from enflow.model.chem.molecule import Molecule

SHARED = Path(os.environ.get("ENFLOW_SHARED", Path(__file__).resolve().parents[2] / "shared"))
TARGET = 0.995


def held_out(count: int) -> list[Molecule]:
    """Return random molecules of the test split, always the same ones."""
    data = np.load(SHARED / "data" / "qm9.npz")
    ends, sizes = np.cumsum(data["num_atoms"], dtype=np.int64), data["num_atoms"]
    numbers, positions = data["atomic_numbers"], data["positions"]
    test = np.random.default_rng(0).permutation(np.flatnonzero(data["split"] == 2))[:count]
    return [Molecule(numbers[a], positions[a]) for a in (slice(ends[i] - sizes[i], ends[i]) for i in test)]


def plain(molecule: Molecule) -> bool:
    """Return True if DetermineBonds alone, with its defaults, finds one connected molecule."""
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
        ["valid, in one piece", str(round(share * len(molecules))), f"{100 * share:.2f} % (target {100 * TARGET:g} %)"]
    )
    rows.append(["DetermineBonds alone", str(round(alone * len(molecules))), f"{100 * alone:.2f} %"])
    rows.append(["median, p99, maximum", "", " ".join(f"{facts[key]} ms" for key in ("median_ms", "p99_ms", "max_ms"))])
    write_results("bonds", "Bonds from geometry", ["method", "molecules", "share"], rows, facts)


if __name__ == "__main__":
    if (SHARED / "data" / "qm9.npz").is_file():
        main("--quick" in sys.argv)
    else:
        print(f"bench_bonds: no QM9 at {SHARED}: set ENFLOW_SHARED to the folder of the reference data")
