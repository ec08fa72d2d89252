"""The references of the GPU command, computed on a CPU in float64; they need no GPU and take some minutes.

python -m benchmarks.gpu.references [--weights DIR] [--run DIR] [--out FILE]
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.checks import losses
from benchmarks.gpu.context import Context, sha256_of_state
from benchmarks.gpu.supervisor import DEFAULT_REFERENCES, ROOT
from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.chem.molecule import Molecule
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.data.qm9 import MoleculeDataset, data_file, load_qm9

STATES, MOLECULES, SCORED = 32, 64, 8


def velocities(flow: MoleculeFlow, count: int) -> dict[str, np.ndarray]:
    """Return states of all sizes and times, in values that float32 holds, and their velocities."""
    latents = [flow.draw_latent(flow.draw_n_atoms(1, index), 1, index) for index in range(count)]
    width, n_features = flow.config.max_atoms, flow.config.dynamics.n_features
    x, h = torch.zeros(count, width, 3), torch.zeros(count, width, n_features)
    mask = torch.zeros(count, width, dtype=torch.bool)
    for row, latent in enumerate(latents):
        n = len(latent.x)
        x[row, :n], h[row, :n], mask[row, :n] = latent.x, latent.h, True
    t = (torch.arange(count) + 0.5) / count
    with torch.no_grad():
        dx, dh = flow.velocity(t.double(), x.double(), h.double(), mask)
    found = {"t": t, "x": x, "h": h, "mask": mask, "dx": dx, "dh": dh}
    return {f"velocity_{name}": value.numpy() for name, value in found.items()}


def generated(flow: MoleculeFlow, count: int) -> dict[str, np.ndarray]:
    """Return molecules of seed 0."""
    sizes = [flow.draw_n_atoms(0, index) for index in range(count)]
    found = {one.index: one.molecule for one in flow.samples(sizes, seed=0, refinements=0)}
    numbers, positions = np.zeros((count, max(sizes)), np.int64), np.zeros((count, max(sizes), 3))
    for index, molecule in found.items():
        if molecule is not None:
            numbers[index, : sizes[index]], positions[index, : sizes[index]] = (
                molecule.atomic_numbers,
                molecule.positions,
            )
    return {"molecules_n_atoms": np.array(sizes), "molecules_numbers": numbers, "molecules_positions": positions}


def scored(flow: MoleculeFlow, data: MoleculeDataset, count: int) -> dict[str, np.ndarray]:
    """Return test molecules and their likelihoods, one draw with one probe a node."""
    rows = np.random.default_rng(0).permutation(len(data))[:count]
    sizes = data.n_atoms[rows]
    numbers, positions = np.zeros((count, max(sizes)), np.int64), np.zeros((count, max(sizes), 3))
    for i, row in enumerate(rows):
        atoms = slice(data.offsets[row], data.offsets[row + 1])
        numbers[i, : sizes[i]] = np.array(flow.config.vocabulary)[data.atom_types[atoms]]
        positions[i, : sizes[i]] = data.positions[atoms]
    molecules = [Molecule(numbers[i, :n], positions[i, :n]) for i, n in enumerate(sizes)]
    nll = [one.nll for one in flow.log_prob(molecules, draws=1, probes=1)]
    arrays = {"n_atoms": sizes, "numbers": numbers, "positions": positions, "nll": np.array(nll)}
    return {f"likelihood_{name}": value for name, value in arrays.items()}


def references(weights: Path, run: Path, counts: tuple[int, int, int] = (STATES, MOLECULES, SCORED)) -> dict[str, Any]:
    """Return all references of weights and of a run's state.

    Args:
        weights: the folder of the weights.
        run: the folder of the run.
        counts: numbers of states, of generated molecules and of scored molecules.
    """
    flow, (states, molecules, scores) = load(weights, "cpu", torch.float64), counts
    test = load_qm9(data_file(), "test", flow.config.vocabulary)
    context = Context(math.inf, time.time(), "cpu", False, Path(), weights, run, Path())
    return {
        "weights_sha256": read_card(weights).weights_sha256,
        "state_sha256": sha256_of_state(run),
        **velocities(flow, states),
        **generated(flow, molecules),
        **scored(flow, test, scores),
        "training_losses": np.array(losses(context, configured=False)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "qm9")
    parser.add_argument("--run", type=Path, default=ROOT / "weights" / "qm9" / "run-wide")
    parser.add_argument("--out", type=Path, default=DEFAULT_REFERENCES)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    np.savez_compressed(wanted.out, **references(wanted.weights, wanted.run))
    print(f"wrote {wanted.out}, {wanted.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
