"""The NLL of the model's own samples beside that of test molecules, by the tolerance of the sampler.

    python -m benchmarks.own_samples [MOLECULES [WEIGHTS]]

Default: 500 molecules of each kind from weights/qm9. The same noise is solved at four tolerances, and at the standard
one also refined four times, with the sizes of as many test molecules. All molecules are scored by the same estimator.
The records are kept in runs/own-samples, with which a second call continues. The table goes to docs/science.md, the
distributions to docs/images/own-samples.svg and to the page of the weights, evaluation.html.

Needs the data that `enflow data qm9` prepares.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.chem.analysis.metrics import bootstrap, stability
from enflow.model.chem.analysis.strain import strain
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.molecule import Molecule
from enflow.model.config import TOLERANCES
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.progress import ProgressCallback, progress
from enflow.model.training.data.qm9 import MoleculeDataset, data_file, load_qm9, molecules_of
from enflow.model.training.evaluation.evaluate import (
    EvaluationConfig,
    record_samples,
    record_scores,
    rows_to_score,
)
from enflow.model.training.evaluation.html_report import NLL_BIN, own_nll_counts
from enflow.model.training.evaluation.publish import publish_own_nll
from enflow.model.training.evaluation.records import RecordFile, SampleRecord, ScoreRecord
from enflow.model.training.svg_charts import shares, svg

BUNDLED = Path("weights") / "qm9"
FOLDER = Path("runs") / "own-samples"
PICTURE = DOCS / "images" / "own-samples.svg"
SAMPLERS = {
    "draft, 1e-2": (TOLERANCES["draft"], 0),
    "standard, 1e-3": (TOLERANCES["standard"], 0),
    "standard, refined": (TOLERANCES["standard"], 4),
    "1e-4": (1e-4, 0),
    "precise, 1e-5": (TOLERANCES["precise"], 0),
}
"""Tolerance and number of refinements."""

PICTURED = ("data", "standard, 1e-3", "standard, refined", "precise, 1e-5")
"""The kinds whose distributions are drawn beside each other."""

HEADER = "| | evaluations | stable % | strain, kcal/mol | NLL, mean | NLL, median | worse than 95 % of data | AUC |"


@dataclass(frozen=True)
class Scored:
    """Molecules with their scores.

    Attributes:
        molecules: the molecules.
        nll: their NLL, nats.
        nfe: mean evaluations of the sampler; None for data.
    """

    molecules: list[Molecule]
    nll: np.ndarray
    nfe: float | None

    @property
    def sizes(self) -> np.ndarray:
        """The numbers of atoms."""
        return np.array([molecule.n_atoms for molecule in self.molecules])


def scored(
    flow: MoleculeFlow, name: str, header: dict[str, Any], molecules: dict[int, Molecule], report: ProgressCallback
) -> tuple[list[Molecule], np.ndarray]:
    """Return the molecules whose score was found, with their scores."""
    records = RecordFile(FOLDER / f"scores-{name}.jsonl", header, ScoreRecord)
    record_scores(flow, EvaluationConfig(probes=4), records, molecules, report)
    found = [index for index in molecules if records.records[index].nll is not None]
    return [molecules[index] for index in found], np.array([records.records[index].nll for index in found])


def samples(
    flow: MoleculeFlow, sampler: tuple[float, int], sizes: list[int], header: dict[str, Any], report: ProgressCallback
) -> Scored:
    """Return samples of these sizes with their scores; sample i begins at the noise of (seed 0, i)."""
    tolerance, refinements = sampler
    name = f"{tolerance:g}" + (f"-refined-{refinements}" if refinements else "")
    header = header | {"tolerance": tolerance, "refinements": refinements}
    records = RecordFile(FOLDER / f"samples-{name}.jsonl", header, SampleRecord)
    missing = {index: size for index, size in enumerate(sizes) if index not in records.records}
    drawn = flow.samples(list(missing.values()), 0, tolerance, tolerance, list(missing), refinements=refinements)
    record_samples(drawn, missing, records, len(sizes), report)
    made = {index: one.molecule for index in range(len(sizes)) if (one := records.records[index]).molecule}
    molecules, nll = scored(flow, name, header, made, report)  # type: ignore[arg-type]
    return Scored(molecules, nll, float(np.mean([one.nfe for one in records.records.values()])))


def auc_within_sizes(one: Scored, stable: np.ndarray) -> float | None:
    """Return the share of pairs (stable, unstable) of one size in which the stable molecule has the lower NLL."""
    right, pairs = 0.0, 0
    for size in np.unique(one.sizes):
        low, high = (one.nll[(one.sizes == size) & each] for each in (stable, ~stable))
        right += float((low[:, None] < high).sum() + 0.5 * (low[:, None] == high).sum())
        pairs += low.size * high.size
    return right / pairs if pairs else None


def improbable(one: Scored, data: Scored) -> float | None:
    """Return the share of molecules whose NLL is above that of 95 % of the data of their size."""
    above = [
        nll > np.quantile(data.nll[data.sizes == size], 0.95)
        for nll, size in zip(one.nll, one.sizes, strict=True)
        if (data.sizes == size).sum() >= 20
    ]
    return float(np.mean(above)) if above else None


def figures(one: Scored, data: Scored) -> dict[str, Any]:
    """Return the row of one kind of molecules."""
    stable = np.array([stability([molecule]).molecules.value == 1 for molecule in one.molecules])
    strains = [strain(molecule, infer_bonds(molecule)) for molecule in one.molecules]
    interval = bootstrap(one.nll, np.ones_like(one.nll))
    return {
        "molecules": len(one.molecules),
        "evaluations": one.nfe,
        "stable": float(stable.mean()),
        "strain": float(np.median([each for each in strains if each is not None])),
        "nll_mean": float(one.nll.mean()),
        "nll_mean_95": [interval.low, interval.high],
        "nll_median": float(np.median(one.nll)),
        "improbable": improbable(one, data),
        "auc": auc_within_sizes(one, stable),
    }


def shown(value: float | None, form: str) -> str:
    """Return a figure in this format; a dash for one that does not exist."""
    return "-" if value is None else format(value, form)


def section(facts: dict[str, dict[str, Any]]) -> str:
    """Return the table in Markdown."""
    lines = [HEADER, "|---" * 8 + "|"]
    for name, one in facts.items():
        low, high = one["nll_mean_95"]
        cells = [
            name,
            shown(one["evaluations"], ".0f"),
            f"{100 * one['stable']:.1f}",
            f"{one['strain']:.1f}",
            f"{one['nll_mean']:.0f} ({low:.0f} to {high:.0f})",
            f"{one['nll_median']:.0f}",
            shown(one["improbable"], ".0%"),
            shown(one["auc"], ".2f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measured(flow: MoleculeFlow, sha256: str, test: MoleculeDataset, count: int) -> dict[str, Scored]:
    """Return the scored molecules of the data and of every sampler."""
    header = {"weights_sha256": sha256, "data_sha256": test.sha256}
    rows = rows_to_score(len(test), EvaluationConfig(molecules=count)).tolist()
    held = dict(zip(rows, molecules_of(test, flow.config.vocabulary, rows), strict=True))
    with progress() as report:
        data = Scored(*scored(flow, "data", header, held, report), None)
        sizes = [molecule.n_atoms for molecule in held.values()]
        made = {name: samples(flow, each, sizes, header, report) for name, each in SAMPLERS.items()}
    return {"data": data, **made}


def picture(nll: dict[str, list[float]]) -> str:
    """Draw the distributions of NLL."""
    counts, first = own_nll_counts(nll)
    return svg(
        "Likelihood of test molecules and of the model's samples", "NLL, nats", "share", shares(counts, NLL_BIN, first)
    )


def main(count: int, weights: Path) -> None:
    torch.set_num_threads(1)
    flow, card = load(weights), read_card(weights)
    kinds = measured(flow, card.weights_sha256, load_qm9(data_file(), "test", flow.config.vocabulary), count)
    facts = {name: figures(one, kinds["data"]) for name, one in kinds.items()}
    nll = {name: kinds[name].nll.round(1).tolist() for name in PICTURED}
    columns = [key for key in facts["data"] if key != "nll_mean_95"]
    rows = [[name, *(shown(one[key], ".3g") for key in columns)] for name, one in facts.items()]
    title = f"NLL of samples and data, {count} molecules each, nats"
    write_results("own_samples", title, ["", *columns], rows, {"weights_sha256": card.weights_sha256, "kinds": facts})
    write_section(DOCS / "science.md", "own samples", section(facts))
    PICTURE.write_text(picture(nll))
    publish_own_nll(weights, card, f"python -m benchmarks.own_samples {count} {weights}", nll)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 500, Path(sys.argv[2]) if sys.argv[2:] else BUNDLED)
