"""The distance of variations from their parent, by strength, for three ways to make them.

    python -m benchmarks.variations [MOLECULES]

Default: 100 molecules of QM9's test split, one variation each, tolerance 1e-3, seed 0. The ways:

- coupled: noise that is coupled to the molecule, at time t = 1 - strength, then the flow from t to 1 (the service's);
- independent: the same with noise that is not coupled;
- latent: the flow back to t = 0, fresh noise of share `strength` in the latent, then the flow from 0 to 1.

Needs the reference data: the folder of the environment variable ENFLOW_SHARED, by default `shared` beside the checkout.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rdkit import Chem, DataStructs, RDLogger
from rdkit.Chem import rdFingerprintGenerator

from benchmarks.bench_bonds import held_out
from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.checkpoint import load
from enflow.model.chem.bonds import infer_bonds, to_mol
from enflow.model.chem.molecule import Molecule
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.states import Latent
from enflow.service.handlers.latent_geometry import rmsd
from enflow.service.protocol.requests import Structure
from enflow.service.settings import BUNDLED_WEIGHTS

TOLERANCE = 1e-3
STRENGTHS = {
    "coupled": (0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 1.0),
    "independent": (0.4, 0.55),
    "latent": (0.05, 0.1, 0.2),
}
COLUMNS = ["same graph", "same formula", "valid", "bonds kept", "Tanimoto", "RMSD", "evaluations"]
FINGERPRINTS = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


@dataclass(frozen=True)
class Graph:
    """The graph of a molecule: its SMILES without stereochemistry, its bonds by atom, and its fingerprint."""

    smiles: str
    bonds: frozenset[frozenset[int]]
    fingerprint: Any


def graph(molecule: Molecule) -> Graph | None:
    """Return the graph of a molecule; None where it is not valid or not in one piece."""
    bonds = infer_bonds(molecule)
    if not bonds.whole:
        return None
    mol = Chem.RemoveHs(to_mol(molecule, bonds))
    pairs = frozenset(frozenset(pair[:2]) for pair in bonds.pairs)
    return Graph(Chem.MolToSmiles(mol, isomericSmiles=False), pairs, FINGERPRINTS.GetFingerprint(mol))


def mixed(first: Latent, second: Latent, a: float, b: float) -> Latent:
    """Return a * first + b * second."""
    return Latent(*(a * one.double() + b * two.double() for one, two in zip(first, second, strict=True)))


def starts(
    flow: MoleculeFlow, molecules: Sequence[Molecule], way: str
) -> Callable[[float], tuple[float, list[Latent]]]:
    """Return the function from a strength to the time and the states at which the flow begins."""
    noise = [flow.draw_latent(each.n_atoms, 0, i) for i, each in enumerate(molecules)]
    if way == "coupled":
        return lambda s: (1 - s, [flow.noised(each, 1 - s, 0, i) for i, each in enumerate(molecules)])
    if way == "independent":
        data = [flow.noised(each, 1.0, 0, i) for i, each in enumerate(molecules)]
        return lambda s: (1 - s, [mixed(*pair, 1 - s, s) for pair in zip(data, noise, strict=True)])
    latents = flow.encode(molecules, rtol=1e-5, atol=1e-5)
    return lambda s: (0.0, [mixed(*pair, (1 - s**2) ** 0.5, s) for pair in zip(latents, noise, strict=True)])


def compared(parent: Molecule, old: Graph, found: Molecule) -> list[float]:
    """Return the measures of one variation, without its evaluations; NaN where it is not valid."""
    new = graph(found)
    distance = rmsd(*(Structure(each.atomic_numbers, each.positions) for each in (found, parent)))
    formula = found.formula == parent.formula
    if new is None:
        return [False, formula, False, np.nan, np.nan, distance]
    heavy = {bond for bond in old.bonds if all(parent.atomic_numbers[i] > 1 for i in bond)}
    bonds = len(heavy & new.bonds) / len(heavy) if heavy else np.nan
    tanimoto = DataStructs.TanimotoSimilarity(old.fingerprint, new.fingerprint)
    return [new.smiles == old.smiles, formula, True, bonds, tanimoto, distance]


def measured(
    flow: MoleculeFlow, parents: Sequence[tuple[Molecule, Graph]], t: float, points: list[Latent]
) -> list[float]:
    """Return the mean of each of COLUMNS over one variation of each parent; the median for the RMSD."""
    rows = []
    for end in flow.solve(points, t, 1.0, TOLERANCE, TOLERANCE):
        (found,) = flow.to_molecules(end.x[None], end.h[None], end.mask)
        rows.append([*compared(*parents[end.index], found), end.nfe])
    table = np.array(rows, float)
    means = np.nanmean(table, axis=0)
    means[COLUMNS.index("RMSD")] = np.median(table[:, COLUMNS.index("RMSD")])
    return [round(float(value), 3) for value in means]


def section(found: dict[str, dict[str, list[float]]], count: int) -> str:
    """Return the table of the docs in Markdown."""
    lines = [f"{count} test molecules, one variation each:", ""]
    lines += ["| noise | strength | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for way, curve in found.items():
        for strength, (graphs, formula, valid, bonds, tanimoto, distance, nfe) in curve.items():
            shares = " | ".join(f"{100 * share:.0f} %" for share in (graphs, formula, valid, bonds))
            lines.append(f"| {way} | {strength} | {shares} | {tanimoto:.2f} | {distance:.2f} | {nfe:.0f} |")
    return "\n".join(lines)


def main(count: int) -> None:
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    flow = load(BUNDLED_WEIGHTS)
    drawn = [(molecule, graph(molecule)) for molecule in held_out(count)]
    parents = [(molecule, found) for molecule, found in drawn if found]
    curves: dict[str, dict[str, list[float]]] = {}
    for way, strengths in STRENGTHS.items():
        start = starts(flow, [molecule for molecule, _ in parents], way)
        curves[way] = {}
        for strength in strengths:
            curves[way][f"{strength:g}"] = measured(flow, parents, *start(strength))
            print(way, strength, curves[way][f"{strength:g}"], flush=True)
    rows = [[way, s, *map(str, values)] for way, curve in curves.items() for s, values in curve.items()]
    facts = {"molecules": len(parents), "tolerance": TOLERANCE, "columns": COLUMNS, "found": curves}
    write_results("variations", f"{len(parents)} molecules", ["noise", "strength", *COLUMNS], rows, facts)
    write_section(DOCS / "science.md", "variations", section(curves, len(parents)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100)
