"""Samples by the times to which they are refined: how many are stable, and how far they are from the data.

    python -m benchmarks.refinement [MOLECULES [WEIGHTS]]

Default: 2,000 molecules for each row, from weights/qm9, tolerance 1e-3. All begin with the same noise of seed 0. The
records are kept in runs/refinement, with which a second call continues.

Needs the data that `enflow data qm9` prepares.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import DOCS, write_results, write_section
from benchmarks.own_samples import BUNDLED
from benchmarks.temperature import DIVERGENCES, SHARES, TOLERANCE, cells, markdown, reference_of
from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.chem.molecule import Molecule
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.tolerances import COARSE, Accuracy
from enflow.model.flow.refinement import refined, refinement_times
from enflow.model.flow.states import Latent, Sample
from enflow.model.progress import ProgressCallback, progress
from enflow.model.training.evaluation.evaluate import record_samples
from enflow.model.training.evaluation.metrics import sample_metrics
from enflow.model.training.evaluation.records import RecordFile, SampleRecord

FOLDER = Path("runs") / "refinement"
ROWS = [
    *(refinement_times(n) for n in (0, 1, 2, 4, 6, 8, 10)),
    [0.3],
    [0.4],
    [0.5],
    [0.7],
    [0.8],
    [0.6] * 3,
    [0.4, 0.55, 0.7],
]
"""The times of the refinements."""


def samples(
    flow: MoleculeFlow, indices: Sequence[int], times: Sequence[float], coarse: Accuracy = COARSE
) -> Iterator[Sample]:
    """Return an iterator over the samples of seed 0 with these indices."""
    latents = [flow.draw_latent(flow.draw_n_atoms(0, i), 0, i) for i in indices]

    def noised(place: int, molecule: Molecule, t: float, number: int) -> Latent:
        return flow.noised(molecule, t, 0, indices[place], number)

    found = refined(flow, noised, latents, times, TOLERANCE, TOLERANCE, coarse)
    return (one.named(indices[one.index], 0) for one in found)


def name_of(times: Sequence[float]) -> str:
    """Return the times as text."""
    if len(times) > 3:
        return f"{times[0]:.2g} to {times[-1]:.2g}, {len(times)} times"
    return ", ".join(f"{t:.2g}" for t in times) or "-"


def recorded(
    flow: MoleculeFlow,
    times: Sequence[float],
    count: int,
    header: dict[str, Any],
    report: ProgressCallback,
    folder: Path = FOLDER,
    coarse: Accuracy = COARSE,
) -> list[SampleRecord]:
    """Return so many samples."""
    name = name_of(times)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"samples-{name.replace(', ', '-').replace(' ', '-')}.jsonl"
    records = RecordFile(file, header | {"times": name}, SampleRecord)
    missing = [i for i in range(count) if i not in records.records]
    sizes = {i: flow.draw_n_atoms(0, i) for i in missing}
    record_samples(samples(flow, missing, times, coarse), sizes, records, count, report)
    return [records.records[i] for i in range(count)]


def main(count: int, weights: Path) -> None:
    torch.set_num_threads(1)
    flow, card = load(weights), read_card(weights)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with progress() as report:
        reference = reference_of(flow, FOLDER, report)
        header = {"weights_sha256": card.weights_sha256}
        found = {
            name_of(times): sample_metrics(recorded(flow, times, count, header, report), reference)[0] for times in ROWS
        }
    rows = [[name, *cells(metrics)] for name, metrics in found.items()]
    columns = ["t", *SHARES, "strain", *DIVERGENCES, "evaluations"]
    write_results("refinement", f"{count:,} samples by refinements", columns, rows, {**header, "found": found})
    write_section(DOCS / "science.md", "refinement", markdown(columns, rows))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[0]) if arguments else 2000, Path(arguments[1]) if arguments[1:] else BUNDLED)
