"""Samples by the error that the solver allows at the end of their path: evaluations, likelihood, share of stable ones.

    python -m benchmarks.final_scale [MOLECULES [WEIGHTS]]

Default: 100 molecules of weights/qm9 in each row, all from the same noise, without refinement, scored with one draw
each. At the tolerance 1e-3 the allowed error at t = 1 is 1 to 0.02 times the tolerance, with the tolerance as the mean
over the path (`model/flow/ode/adams.py`); the last row has a tenth of the tolerance at all times. It fills the table of
docs/performance.md.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import DOCS, write_results, write_section
from benchmarks.own_samples import BUNDLED
from enflow.model.card import read_card
from enflow.model.checkpoint import load_molecules
from enflow.model.chem.analysis.metrics import stability
from enflow.model.chem.molecule import Molecule
from enflow.model.config import STANDARD
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.tolerances import FINAL_SCALE, Ending

ROWS = [(STANDARD, scale) for scale in (1.0, 0.2, 0.1, FINAL_SCALE, 0.02)] + [(STANDARD / 10, 1.0)]
HEADS = ["tolerance", "factor at t = 1", "evaluations", "NLL, mean", "gain in pairs", "stable %"]


def samples(flow: MoleculeFlow, count: int, tolerance: float, final_scale: float) -> tuple[list[Molecule], float]:
    """Return molecules 0 to `count` of seed 0, and the mean number of evaluations."""
    points = [flow.draw_latent(flow.draw_n_atoms(0, index), 0, index) for index in range(count)]
    ends = sorted(flow.decoded(points, tolerance, tolerance, 0.0, Ending(final_scale)), key=lambda end: end.index)
    return [end.molecule for end in ends if end.molecule is not None], float(np.mean([end.nfe for end in ends]))


def measured(flow: MoleculeFlow, count: int) -> list[dict[str, Any]]:
    """Return the measures of each row."""
    found: list[dict[str, Any]] = []
    first = np.zeros(count)
    for tolerance, final_scale in ROWS:
        molecules, evaluations = samples(flow, count, tolerance, final_scale)
        nll = np.array([-score.log_prob for score in flow.log_prob(molecules, draws=1)])
        first = first if found else nll
        gains = first - nll
        found.append(
            {
                "tolerance": tolerance,
                "final_scale": final_scale,
                "evaluations": evaluations,
                "nll": float(nll.mean()),
                "gain": float(gains.mean()),
                "gain_se": float(gains.std() / count**0.5),
                "stable": stability(molecules).molecules.value,
            }
        )
    return found


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row of the table."""
    gain = f"{row['gain']:.0f} ± {row['gain_se']:.0f}" if row["gain"] else "-"
    shares = [f"{row['evaluations']:.1f}", f"{row['nll']:.0f}", gain, f"{100 * row['stable']:.0f}"]
    return [f"{row['tolerance']:g}", f"{row['final_scale']:g}", *shares]


def main(count: int, weights: Path) -> None:
    torch.set_num_threads(1)
    rows = measured(load_molecules(weights).requires_grad_(False), count)
    table = [cells(row) for row in rows]
    facts = {"molecules": count, "weights_sha256": read_card(weights).weights_sha256, "rows": rows}
    write_results("final_scale", f"{count} samples by the error allowed at the end", HEADS, table, facts)
    lines = [f"| {' | '.join(line)} |" for line in (HEADS, *table)]
    lines.insert(1, "|---" * len(HEADS) + "|")
    write_section(DOCS / "performance.md", "final scale", "\n".join(lines))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100, Path(sys.argv[2]) if sys.argv[2:] else BUNDLED)
