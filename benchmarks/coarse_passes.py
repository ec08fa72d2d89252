"""Samples by the accuracy of the passes before the last: how many are stable, and how far they are from the data.

    python -m benchmarks.coarse_passes [MOLECULES [WEIGHTS]]

Default: 1,000 molecules for each row, from weights/qm9, refined as often as its card says, tolerance 1e-3. All begin
with the same noise of seed 0. The passes before the last have a larger tolerance, and end at an earlier time with a
straight line (`model/flow/ode/tolerances.py`). The records are kept in runs/coarse-passes, with which a second call
continues. It fills the table of docs/science.md.

Needs the data that `enflow data qm9` prepares.
"""

import math
import sys
from pathlib import Path

import torch

from benchmarks.measure import DOCS, write_results, write_section
from benchmarks.own_samples import BUNDLED
from benchmarks.refinement import recorded
from benchmarks.temperature import DIVERGENCES, SHARES, cells, markdown, reference_of
from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.flow.ode.tolerances import Accuracy, Ending
from enflow.model.flow.refinement import refinement_times
from enflow.model.progress import progress
from enflow.model.training.evaluation.metrics import sample_metrics

FOLDER = Path("runs") / "coarse-passes"
ROWS = [(3.0, math.inf), (3.0, 0.9), (6.0, math.inf), (6.0, 0.9), (6.0, 0.8), (10.0, 0.9)]
"""The factor on the tolerance, and the time from which a straight line ends the pass."""

LEFT_OUT = ("unique %", "novel %")
"""Columns for which a line of the docs is too short."""


def main(count: int, weights: Path) -> None:
    torch.set_num_threads(1)
    flow, card = load(weights), read_card(weights)
    FOLDER.mkdir(parents=True, exist_ok=True)
    times, found = refinement_times(flow.config.refinements), []
    header = {"weights_sha256": card.weights_sha256}
    with progress() as report:
        reference = reference_of(flow, FOLDER, report)
        for factor, straight_from in ROWS:
            coarse = Accuracy(factor, Ending(1.0, straight_from))
            samples = recorded(flow, times, count, header, report, FOLDER / f"{factor:g}-{straight_from:g}", coarse)
            found.append(sample_metrics(samples, reference)[0])
    ends = [f"{start:g}" if start < 1 else "-" for _, start in ROWS]
    rows = [[f"{factor:g}", end, *cells(each)] for (factor, _), end, each in zip(ROWS, ends, found, strict=True)]
    columns = ["factor", "line from", *SHARES, "strain", *DIVERGENCES, "evaluations"]
    kept = [number for number, name in enumerate(columns) if name not in LEFT_OUT]
    columns, *rows = ([row[number] for number in kept] for row in (columns, *rows))
    title = f"{count:,} samples by the accuracy of the passes before the last"
    write_results("coarse_passes", title, columns, rows, {**header, "refinements": len(times), "found": found})
    write_section(DOCS / "science.md", "coarse passes", markdown(columns, rows))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[0]) if arguments else 1000, Path(arguments[1]) if arguments[1:] else BUNDLED)
