"""The share of stable molecules by starting time: test molecules are noised to a time t and integrated to 1.

    python -m benchmarks.start_time [--molecules N] [WEIGHTS ...]

Default: 400 test molecules, weights/qm9. A molecule's noise is coupled to it as in the training and is the same at all
times. A loss between two columns is a loss by the velocity between their times. Tolerance 1e-3.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import write_results
from benchmarks.parity import BUNDLED
from enflow.model.checkpoint import load
from enflow.model.chem.analysis.metrics import Share, stability
from enflow.model.chem.molecule import Molecule
from enflow.model.config import TOLERANCES
from enflow.model.errors import StructureError
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.batched_solver import FinalState, InitialState, solve_batched
from enflow.model.flow.ode.solver_state import Status
from enflow.model.training.data.qm9 import MoleculeDataset, data_file, load_qm9
from enflow.model.training.flow_matching import CoupledPairs, couple

TIMES = (1.0, 0.9, 0.75, 0.5, 0.35, 0.2, 0.0)
"""The first is the data itself."""

MOLECULES = 400
SEED = 17


def start_times(
    flow: MoleculeFlow, data: MoleculeDataset, count: int = MOLECULES, times: Sequence[float] = TIMES, seed: int = SEED
) -> dict[float, Share]:
    """Return the share of stable molecules by the time at which they start.

    Args:
        flow: a flow that draws the atom types.
        data: held-out molecules, of which `count` are chosen by `seed`.
        times: the starting times; what fails on the way counts as not stable.
    """
    rows = np.random.default_rng(seed).permutation(len(data))[:count]
    pairs = [_coupled(flow, data, int(row), seed) for row in rows]
    tolerance = TOLERANCES["standard"]
    starts = [InitialState(*_noised(pair, t), t, 1.0, tolerance, tolerance) for t in times for pair in pairs]
    stable = dict.fromkeys(times, 0)
    for end in solve_batched(torch.no_grad()(flow.velocity), starts):
        for molecule in _molecules(flow, end):
            stable[times[end.index // count]] += int(stability([molecule]).stable[0])
    return {t: Share(found, count) for t, found in stable.items()}


def _coupled(flow: MoleculeFlow, data: MoleculeDataset, row: int, seed: int) -> CoupledPairs:
    kinds = flow.config.dequantizer
    corners = kinds.scale * np.eye(len(flow.config.vocabulary), dtype=np.float32)
    return couple(*data.stack(np.array([row])), corners, kinds.sigma, np.random.default_rng([seed, row]))


def _noised(pair: CoupledPairs, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.lerp(pair.x0[0], pair.x1[0], t), torch.lerp(pair.h0[0], pair.h1[0], t)


def _molecules(flow: MoleculeFlow, end: FinalState) -> Iterator[Molecule]:
    if end.status == Status.SUCCESS:
        try:
            yield from flow.to_molecules(end.x[None], end.h[None], end.mask)
        except StructureError:
            return


def row(name: str, found: dict[float, Share]) -> list[str]:
    """A line of the table: percentages."""
    return [name, *(f"{100 * share.value:.1f}" for share in found.values())]


def columns(times: Sequence[float] = TIMES) -> list[str]:
    """The header of the table."""
    return ["start at t", *("data" if t == 1.0 else f"{t:g}" for t in times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", type=Path, default=[BUNDLED], metavar="WEIGHTS")
    parser.add_argument("--molecules", type=int, default=MOLECULES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    test = load_qm9(data_file(), "test")
    found = {str(each): start_times(load(each), test, arguments.molecules) for each in arguments.weights}
    facts = {name: {f"{t:g}": share.value for t, share in one.items()} for name, one in found.items()}
    title = f"Stable molecules % of {arguments.molecules}, by the time at which they start"
    rows = [row(name, one) for name, one in found.items()]
    write_results("start_time", title, columns(), rows, {"molecules": arguments.molecules, "stable": facts})


if __name__ == "__main__":
    main()
