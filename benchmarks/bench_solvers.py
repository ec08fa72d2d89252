"""The evaluations that each adaptive method needs for its accuracy, from noise to molecules.

    python -m benchmarks.bench_solvers [MOLECULES [WEIGHTS]]

Default: 24 molecules of weights/qm9 with the sizes of QM9. The same latents are solved by both methods at several
tolerances, in float32, and compared with a tight solution in float64. Adams' method is measured twice: as it is used,
with an allowed error that falls with the noise, and with the same allowed error at all times. The error is the RMS
distance of all atoms of all molecules, and the median is over molecules. It fills the table of docs/performance.md.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.bench_sampling import TIGHT, WEIGHTS, distance, latents
from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.checkpoint import load_molecules
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.methods import ADAMS, DORMAND_PRINCE, Method, solve_rows
from enflow.model.flow.ode.size_buckets import bucketed
from enflow.model.flow.ode.tolerances import FINE, Ending
from enflow.model.flow.states import Latent

EVEN = Ending(1.0)
METHODS = {"Adams": (ADAMS, FINE), "even": (ADAMS, EVEN), "Dormand-Prince": (DORMAND_PRINCE, EVEN)}
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)


def solved(
    flow: MoleculeFlow, method: tuple[Method, Ending], points: list[Latent], tolerance: float
) -> tuple[list[torch.Tensor], float]:
    """Return the positions of every molecule at t = 1, (N, 3) each, and the mean number of evaluations."""
    x, h = (pad_sequence([point[field].to(flow.dtype) for point in points], batch_first=True) for field in (0, 1))
    mask = torch.arange(x.shape[1]) < torch.tensor([len(point.x) for point in points])[:, None]
    solver, ending = method
    velocity, tolerances = bucketed(flow.velocity), (tolerance, tolerance)
    end = solve_rows(solver, velocity, x, h, mask, (0.0, 1.0), tolerances, ending=ending)
    return [row[real] for row, real in zip(end.x, mask, strict=True)], float(end.nfe.double().mean())


@torch.no_grad()
def measure(flow: MoleculeFlow, count: int) -> list[dict[str, Any]]:
    """Return evaluations and errors by tolerance and method."""
    points = latents(flow, count)
    expected, _ = solved(flow.in_double(), METHODS["Dormand-Prince"], points, TIGHT)
    found = []
    for tolerance in TOLERANCES:
        for name, method in METHODS.items():
            positions, evaluations = solved(flow, method, points, tolerance)
            each = [distance([a], [b]) for a, b in zip(positions, expected, strict=True)]
            error = {"rms": distance(positions, expected), "median": float(np.median(each))}
            found.append({"tolerance": tolerance, "method": name, "evaluations": evaluations, **error})
    return found


def section(rows: list[dict[str, Any]]) -> str:
    """Return the table of docs/performance.md: one row for each tolerance, the evaluations under the method's name."""
    head = [what for name in METHODS for what in (name, "RMS", "median")]
    lines = [f"| tolerance | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for tolerance in TOLERANCES:
        of = {row["method"]: row for row in rows if row["tolerance"] == tolerance}
        cells = [
            f"{of[name]['evaluations']:.0f} | {of[name]['rms']:.4f} | {of[name]['median']:.4f}" for name in METHODS
        ]
        lines.append(f"| {tolerance:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(count: int, weights: Path) -> None:
    torch.set_num_threads(1)
    rows = measure(load_molecules(weights).requires_grad_(False), count)
    cells = [[str(row["tolerance"]), row["method"], *(f"{row[key]:.4g}" for key in list(row)[2:])] for row in rows]
    title = f"Evaluations and errors of {count} molecules from noise, float32"
    columns = ["tolerance", "method", "evaluations", "RMS, angstrom", "median"]
    write_results("solvers", title, columns, cells, {"molecules": count, "rows": rows})
    write_section(DOCS / "performance.md", "solvers", section(rows))


if __name__ == "__main__":
    arguments = [each for each in sys.argv[1:] if each != "--quick"]
    count = 4 if "--quick" in sys.argv else int(arguments[0]) if arguments else 24
    main(count, Path(arguments[1]) if arguments[1:] else WEIGHTS)
