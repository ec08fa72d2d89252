"""The largest step of a walk between two molecules, in structure, while the steps in the latent space are halved.

    python -m benchmarks.interpolation [PAIRS]

Default: 8 pairs of test molecules of equal size, each walked in 17 steps at tolerance 1e-5. Then the latents of the two
neighbours that differ most are halved ten times, and each time the half with the larger step is kept.

Needs the reference data: the folder of the environment variable ENFLOW_SHARED, by default `shared` beside the checkout.
"""

import sys
from itertools import pairwise

import numpy as np
import torch

from benchmarks.bench_bonds import held_out
from benchmarks.measure import write_results
from benchmarks.variations import graph
from enflow.model.checkpoint import load
from enflow.model.chem.molecule import Molecule
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.states import Latent
from enflow.service.handlers.latent_geometry import aligned, match, rmsd, spherical
from enflow.service.protocol.requests import LatentArrays, Structure
from enflow.service.settings import BUNDLED_WEIGHTS

STEPS, HALVINGS, TOLERANCE = 17, 10, 1e-5


def structure(molecule: Molecule) -> Structure:
    """Return a molecule as the service's geometry takes it."""
    return Structure(molecule.atomic_numbers, molecule.positions)


def decoded(flow: MoleculeFlow, latents: list[LatentArrays]) -> list[Molecule]:
    """Return the molecules of latents."""
    points = [Latent(torch.from_numpy(x), torch.from_numpy(h)) for x, h in latents]
    return list(flow.decode(points, rtol=TOLERANCE, atol=TOLERANCE))


def steps(molecules: list[Molecule]) -> list[float]:
    """Return the RMSD of each two neighbours, angstrom."""
    return [rmsd(structure(b), structure(a)) for a, b in pairwise(molecules)]


def walked(flow: MoleculeFlow, first: Molecule, second: Molecule) -> dict[str, float]:
    """Return the number of distinct graphs of a walk, its median and largest step, and the largest one halved."""
    latents = [LatentArrays(*(part.double().numpy() for part in each)) for each in flow.encode([first, second])]
    end = aligned(latents[1], *match(structure(second), structure(first)))
    path = [spherical(latents[0], end, fraction) for fraction in np.linspace(0, 1, STEPS)]
    molecules = decoded(flow, path)
    found = steps(molecules)
    at = int(np.argmax(found))
    low, high = (path[at], molecules[at]), (path[at + 1], molecules[at + 1])
    for _ in range(HALVINGS):
        latent = spherical(low[0], high[0], 0.5)
        middle = latent, decoded(flow, [latent])[0]
        before, after = steps([low[1], middle[1], high[1]])
        low, high = (low, middle) if before > after else (middle, high)
    smiles = {each.smiles if (each := graph(one)) else "not valid" for one in molecules}
    halved = steps([low[1], high[1]])[0]
    return {"graphs": len(smiles), "median": float(np.median(found)), "largest": max(found), "halved": halved}


def main(count: int) -> None:
    torch.set_num_threads(1)
    flow, by_size = load(BUNDLED_WEIGHTS), dict[int, list[Molecule]]()
    for molecule in held_out(400):
        by_size.setdefault(molecule.n_atoms, []).append(molecule)
    pairs = [(each[0], each[1]) for _, each in sorted(by_size.items()) if len(each) > 1]
    chosen = pairs[len(pairs) // 2 - count // 2 :][:count]
    found = []
    for pair in chosen:
        found.append(walked(flow, *pair))
        print(found[-1], flush=True)
    rows = [[f"{value:.3g}" for value in each.values()] for each in found]
    columns = [f"graphs of {STEPS}", "median step", "largest step", f"after {HALVINGS} halvings"]
    write_results("interpolation", f"{len(found)} walks, RMSD in angstrom", columns, rows, {"found": found})


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 8)
