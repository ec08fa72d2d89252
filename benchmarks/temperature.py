"""Samples by temperature: how many are stable, how diverse they are, and how far they are from the data.

    python -m benchmarks.temperature [MOLECULES [WEIGHTS]]

Default: 2,000 molecules at each temperature from weights/qm9, tolerance 1e-3. The temperature is the standard deviation
of the noise that samples begin with; molecule i begins with the same noise of (seed 0, i), scaled. The records are kept
in runs/temperature, with which a second call continues.

Needs the data that `enflow data qm9` prepares.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import DOCS, write_results, write_section
from benchmarks.own_samples import BUNDLED
from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.config import TOLERANCES
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.progress import ProgressCallback, progress
from enflow.model.training.data.qm9 import data_file, load_qm9, molecules_of
from enflow.model.training.evaluation.evaluate import (
    REFERENCE_MOLECULES,
    compositions,
    record_samples,
    training_smiles,
)
from enflow.model.training.evaluation.metrics import Reference, sample_metrics
from enflow.model.training.evaluation.records import RecordFile, SampleRecord

FOLDER = Path("runs") / "temperature"
TEMPERATURES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
TOLERANCE = TOLERANCES["standard"]
SHARES = {
    "stable %": "molecule_stability",
    "valid %": "validity",
    "one piece %": "single_fragment",
    "unique %": "uniqueness",
    "novel %": "novelty",
    "known %": "known_composition",
}
DIVERGENCES = {"angles": "angles", "rings": "rings", "groups": "functional_groups"}
"""Jensen-Shannon divergences from test molecules, in thousandths."""


def samples(
    flow: MoleculeFlow, temperature: float, count: int, header: dict[str, Any], report: ProgressCallback
) -> list[SampleRecord]:
    """Return so many samples at a temperature."""
    header = header | {"temperature": temperature}
    records = RecordFile(FOLDER / f"samples-{temperature:g}.jsonl", header, SampleRecord)
    sizes = {i: flow.draw_n_atoms(0, i) for i in range(count) if i not in records.records}
    drawn = flow.samples(list(sizes.values()), 0, TOLERANCE, TOLERANCE, list(sizes), temperature, refinements=0)
    record_samples(drawn, sizes, records, count, report)
    return [records.records[i] for i in range(count)]


def reference_of(flow: MoleculeFlow, folder: Path, report: ProgressCallback) -> Reference:
    """Return the training and test molecules with which samples are compared."""
    train, test = (load_qm9(data_file(), split, flow.config.vocabulary) for split in ("train", "test"))
    training = training_smiles(train, flow, folder, report)
    picked = np.random.default_rng(0).permutation(len(test))[:REFERENCE_MOLECULES].tolist()
    known = compositions(train, flow.config.vocabulary)
    return Reference.of(training, molecules_of(test, flow.config.vocabulary, picked), known)


def cells(metrics: dict[str, Any]) -> list[str]:
    """Return the cells of a row of the table, but the first."""
    shares = {name: f"{100 * metrics[key]:.1f}" for name, key in SHARES.items()}
    low, high = (100 * end for end in metrics["intervals_95"]["molecule_stability"])
    shares["stable %"] += f" ({low:.1f} to {high:.1f})"
    divergences = [f"{1e3 * metrics['divergences'][name]:.1f}" for name in DIVERGENCES.values()]
    strain = f"{metrics['strain']['median']:.1f}"
    return [*shares.values(), strain, *divergences, f"{metrics['nfe_mean']:.1f}"]


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Return the table of the docs."""
    lines = [f"| {' | '.join(line)} |" for line in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def main(count: int, weights: Path) -> None:
    torch.set_num_threads(1)
    flow, card = load(weights), read_card(weights)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with progress() as report:
        reference = reference_of(flow, FOLDER, report)
        header = {"weights_sha256": card.weights_sha256}
        found = {t: sample_metrics(samples(flow, t, count, header, report), reference)[0] for t in TEMPERATURES}
    rows = [[f"{temperature:g}", *cells(metrics)] for temperature, metrics in found.items()]
    columns = ["T", *SHARES, "strain", *DIVERGENCES, "evaluations"]
    write_results("temperature", f"{count:,} samples by temperature", columns, rows, {**header, "temperatures": found})
    write_section(DOCS / "science.md", "temperature", markdown(columns, rows))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[0]) if arguments else 2000, Path(arguments[1]) if arguments[1:] else BUNDLED)
