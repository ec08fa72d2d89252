"""Samples with at most nine heavy atoms, as every molecule of QM9: their quality, and what the choice costs.

    python -m benchmarks.selected [MOLECULES [REFINEMENTS ...]]

Default: 10,000 molecules from weights/qm9 of seed 0, tolerance 1e-3, refined four times. They are those that
`enflow sample qm9 --where heavy_atoms=:9` keeps: molecule j of n tries the indices j, j + n, j + 2n, ... of the seed.
The evaluations of the molecules that are not kept count for those in whose place they were tried. The records are kept
in runs/selected, with which a second call continues.

Needs the data that `enflow data qm9` prepares.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import DOCS, write_results, write_section
from benchmarks.own_samples import BUNDLED
from benchmarks.temperature import SHARES, TOLERANCE, cells, markdown, reference_of
from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.progress import ProgressCallback, progress
from enflow.model.training.evaluation.evaluate import record_samples
from enflow.model.training.evaluation.metrics import sample_metrics
from enflow.model.training.evaluation.records import RecordFile, SampleRecord

FOLDER = Path("runs") / "selected"
MOST_HEAVY_ATOMS = 9


def is_kept(sample: SampleRecord) -> bool:
    """True for a finished molecule with at most nine heavy atoms."""
    if sample.molecule is None:
        return False
    return sum(number > 1 for number in sample.atomic_numbers) <= MOST_HEAVY_ATOMS


def selected(
    flow: MoleculeFlow, count: int, refinements: int, header: dict[str, Any], report: ProgressCallback
) -> list[SampleRecord]:
    """Return so many kept molecules, each with the evaluations of all its attempts."""
    header = header | {"count": count, "refinements": refinements}
    records = RecordFile(FOLDER / f"samples-refined-{refinements}.jsonl", header, SampleRecord)
    spent = [0] * count
    kept: dict[int, SampleRecord] = {}
    first = 0
    while places := [place for place in range(count) if place not in kept]:
        sizes = {first + place: flow.draw_n_atoms(0, first + place) for place in places}
        missing = {index: size for index, size in sizes.items() if index not in records.records}
        drawn = flow.samples(list(missing.values()), 0, TOLERANCE, TOLERANCE, list(missing), refinements=refinements)
        record_samples(drawn, missing, records, len(sizes), report)
        for place in places:
            sample = records.records[first + place]
            spent[place] += sample.nfe
            if is_kept(sample):
                kept[place] = replace(sample, nfe=spent[place])
        first += count
    return [kept[place] for place in range(count)]


def row_of(metrics: dict[str, Any]) -> list[str]:
    """Return the cells of a row, but the first."""
    *shares, strain, _, _, _, evaluations = cells(metrics)
    return [f"{100 * metrics['atom_stability']:.1f}", *shares, strain, evaluations]


def main(count: int, numbers: list[int]) -> None:
    torch.set_num_threads(1)
    flow, card = load(BUNDLED), read_card(BUNDLED)
    FOLDER.mkdir(parents=True, exist_ok=True)
    header = {"weights_sha256": card.weights_sha256}
    with progress() as report:
        reference = reference_of(flow, FOLDER, report)
        found = {n: sample_metrics(selected(flow, count, n, header, report), reference)[0] for n in numbers}
    rows = [[f"{n} refinements", *row_of(one)] for n, one in found.items()]
    columns = ["", "atoms %", *SHARES, "strain", "evaluations"]
    title = f"{count:,} samples with at most nine heavy atoms"
    write_results("selected", title, columns, rows, header | {"found": found})
    write_section(DOCS / "science.md", "selected", markdown(columns, rows))


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:] if argument != "--quick"]
    main(arguments[0] if arguments else 10_000, arguments[1:] or [4])
