"""The change of the bound on the NLL by more draws of the dequantizer, and by other weights.

    python -m benchmarks.nll_moves [NAME=WEIGHTS ...]

Scores the same test molecules with the same probes by weights/qm9 and by the weights of each name, and compares them
molecule by molecule. The scores are kept in runs/nll-moves, with which a second call continues. The table goes to
results/ and docs/training.md.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.progress import progress
from enflow.model.training.data.qm9 import data_file, load_qm9, molecules_of
from enflow.model.training.evaluation.evaluate import (
    EvaluationConfig,
    record_scores,
    rows_to_score,
)
from enflow.model.training.evaluation.records import RecordFile, ScoreRecord

BUNDLED = Path(__file__).parents[1] / "weights" / "qm9"
FOLDER = Path("runs") / "nll-moves"
PAIRED = EvaluationConfig(samples=0, molecules=64)
WEIGHTED = EvaluationConfig(samples=0, molecules=4, divergence="exact", draws=8)
"""A draw takes ten seconds, so the molecules are few; each one's gain is known to a fraction of a nat."""


def scores(name: str, weights: Path, settings: EvaluationConfig) -> list[ScoreRecord]:
    """Return the scores of the first test molecules, in the order of `enflow evaluate`."""
    flow, data = load(weights), data_file()
    test = load_qm9(data, "test", flow.config.vocabulary)
    rows = rows_to_score(len(test), settings).tolist()
    fixed = {key: value for key, value in asdict(settings).items() if key != "molecules"}
    header = {"weights_sha256": read_card(weights).weights_sha256, "data_sha256": test.sha256, **fixed}
    records = RecordFile(FOLDER / f"{name}.jsonl", header, ScoreRecord)
    with progress() as report:
        molecules = dict(zip(rows, molecules_of(test, flow.config.vocabulary, rows), strict=True))
        record_scores(flow, settings, records, molecules, report)
    return [records.records[row] for row in rows]


def move(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """Return both means, the mean of the differences and its standard error, nats."""
    first, second = np.array(before), np.array(after)
    change = second - first
    error = float(change.std(ddof=1) / np.sqrt(len(change)))
    return {
        "molecules": len(change),
        "before": round(float(first.mean()), 2),
        "after": round(float(second.mean()), 2),
        "moved": round(float(change.mean()), 2),
        "error": round(error, 2),
    }


def by_draws() -> dict[str, float]:
    """Return the change from the mean bound of single draws to the importance-weighted bound."""
    found = [one for one in scores("draws", BUNDLED, WEIGHTED) if one.nll is not None]
    means = [float(one.nll or 0.0) for one in found]
    return move(means, [mean - one.gain for mean, one in zip(means, found, strict=True)])


def by_weights(name: str, weights: Path) -> dict[str, float]:
    """Return the change from the bundled weights to others, for the molecules that both solvers finish."""
    pairs = zip(scores("bundled", BUNDLED, PAIRED), scores(name, weights, PAIRED), strict=True)
    finished = [(a.nll, b.nll) for a, b in pairs if a.nll is not None and b.nll is not None]
    return move([a for a, _ in finished], [b for _, b in finished])


def section(moves: dict[str, dict[str, float]]) -> str:
    """Return the table in Markdown."""
    lines = ["| | molecules | NLL before | NLL after | moved by |", "|---|---|---|---|---|"]
    for name, one in moves.items():
        figures = f"{one['before']:.1f} | {one['after']:.1f} | {one['moved']:+.2f} ± {one['error']:.2f}"
        lines.append(f"| {name} | {one['molecules']} | {figures} |")
    return "\n".join(lines)


def main(others: dict[str, Path]) -> None:
    torch.set_num_threads(1)
    moves = {name: by_weights(name, weights) for name, weights in others.items()}
    moves = {f"{WEIGHTED.draws} draws, weighted by importance": by_draws(), **moves}
    facts: dict[str, Any] = {"weights_sha256": read_card(BUNDLED).weights_sha256, "moves": moves}
    columns = ["", "molecules", "NLL before", "after", "moved by", "error"]
    rows = [[name, *map(str, one.values())] for name, one in moves.items()]
    write_results("nll_moves", "Change of the NLL, nats", columns, rows, facts)
    write_section(DOCS / "training.md", "nll moves", section(moves))


if __name__ == "__main__":
    main({name: Path(weights) for name, _, weights in (each.partition("=") for each in sys.argv[1:])})
