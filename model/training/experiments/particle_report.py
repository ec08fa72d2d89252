"""The report of a table of particle systems: a JSON file, a chart of what equivariance gains, and Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from enflow.model.files import replace_file
from enflow.model.training.data.particles import Particles
from enflow.model.training.experiments.particle_cells import (
    MODELS,
    OBJECTIVES,
    PUBLISHED,
    SIZES,
    VECTOR,
    Cell,
    Result,
    cells,
    read_results,
)
from enflow.model.training.svg_charts import Point, Series, svg

CHARTED = {"enf": "E-NF", "gnn": "GNN", "gnn_att_aug": "GNN, attention, augmentation"}
"""Models in the chart: those that show the effect of equivariance."""
NAMES = {
    **CHARTED,
    "gnn_att": "GNN, attention",
    "simple": "Simple dynamics",
    "kernel": "Kernel dynamics",
    VECTOR: "EGNN with vectors, not in the paper",
}
SEEDS = 3
"""Number of seeds of a complete table."""


def publish(folder: Path, data: Particles) -> dict[str, Any]:
    """Write SYSTEM.json and SYSTEM.svg of the finished cells in a folder, and return the content of the JSON file."""
    all_results = [_with_floor(result, data) for result in read_results(folder) if result.cell.system == data.name]
    results = [result for result in all_results if result.cell.objective == OBJECTIVES[0]]
    done = {result.cell for result in results}
    missing = [cell for cell in cells(data.name, MODELS, SIZES[data.name], SEEDS) if cell not in done]
    document = {
        "system": data.name,
        "floor": data.entropy,
        "floor_error": data.entropy_error,
        "data_sha256": data.sha256,
        "table": summary(data.name, results),
        "likelihood": compare_objectives(all_results),
        "missing": [cell.name for cell in missing],
        "hours_missing": hours(missing, results),
        "cells": [asdict(result) for result in all_results],
    }
    replace_file(folder / f"{data.name}.json", (json.dumps(document, indent=1) + "\n").encode())
    if drawing := figure(data.name, data.entropy, results):
        replace_file(folder / f"{data.name}.svg", drawing.encode())
    return document


def summary(system: str, results: Sequence[Result]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Return mean and standard deviation over seeds, number of seeds and published NLL, by model and size."""
    table: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for model in MODELS:
        for size, published in zip(SIZES[system], PUBLISHED[system][model], strict=True):
            nlls = _nlls(results, model, size)
            table.setdefault(model, {})[str(size)] = {
                "nll": float(np.mean(nlls)) if nlls else None,
                "spread": float(np.std(nlls, ddof=1)) if len(nlls) > 1 else None,
                "seeds": len(nlls),
                "published": published,
            }
    return table


def compare_objectives(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the mean NLL by objective over common seeds, for models and sizes that were trained by likelihood too."""
    by_likelihood = [result for result in results if result.cell.objective != OBJECTIVES[0]]
    rows = []
    for model, size in dict.fromkeys((r.cell.model, r.cell.samples) for r in by_likelihood):
        same = [r for r in results if (r.cell.model, r.cell.samples) == (model, size)]
        nlls = {name: {r.cell.seed: r.nll for r in same if r.cell.objective == name} for name in OBJECTIVES}
        shared = sorted(set.intersection(*(set(by_seed) for by_seed in nlls.values() if by_seed)))
        means = {
            name: float(np.mean([by_seed[s] for s in shared])) if by_seed and shared else None
            for name, by_seed in nlls.items()
        }
        rows.append({"model": model, "samples": size, "seeds": len(shared), **means})
    return sorted(rows, key=lambda row: (MODELS.index(str(row["model"])), row["samples"]))


def hours(missing: Sequence[Cell], results: Sequence[Result]) -> float | None:
    """Estimate the processor time to train the missing cells from finished ones of the same model, or of any model."""
    if not results:
        return None
    average = float(np.mean([result.seconds for result in results]))
    total = 0.0
    for cell in missing:
        same = [result.seconds for result in results if result.cell.model == cell.model]
        total += float(np.mean(same)) if same else average
    return round(total / 3600, 2)


def figure(system: str, entropy: float | None, results: Sequence[Result]) -> str:
    """Draw the test NLL over the number of training samples, with the entropy as floor; empty without results.

    Args:
        system: name of the system.
        entropy: entropy of the distribution, nats; None = unknown.
        results: results of flow matching.
    """
    series = []
    for model, name in CHARTED.items():
        found = [(size, _nlls(results, model, size)) for size in SIZES[system]]
        points: list[Point] = [(float(size), float(np.mean(nlls))) for size, nlls in found if nlls]
        if points:
            series.append(Series(name, points))
    if series and entropy is not None:
        ends = SIZES[system][0], SIZES[system][-1]
        series.append(Series("floor: the entropy", [(float(end), entropy) for end in ends]))
    return svg(f"Test NLL of {system.upper()}", "training samples", "nats", series, log_x=True)


def text(document: dict[str, Any]) -> str:
    """Return the tables in Markdown: mean ± standard deviation over seeds, and the published NLL in brackets."""
    table = document["table"]
    sizes = list(next(iter(table.values())))
    lines = [f"| {document['system']} | " + " | ".join(sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for model, row in table.items():
        lines.append(f"| {NAMES[model]} | " + " | ".join(_entry(row[size]) for size in sizes) + " |")
    if document["floor"] is not None:
        lines.append(f"\nFloor: {document['floor']:.2f} ± {document['floor_error']:.2f} nats.")
    if document["missing"] and document["hours_missing"] is not None:
        lines.append(
            f"\n{len(document['missing'])} cells of three seeds are missing: about {document['hours_missing']} hours "
            "of processor time to train, and their scoring; the command without --samples and --seeds fills them."
        )
    return "\n".join([*lines, *objectives_text(document)])


def objectives_text(document: dict[str, Any]) -> list[str]:
    """Return the lines of the table of objectives; none if no cell was trained by likelihood."""
    if not document["likelihood"]:
        return []
    lines = [
        f"\n| {document['system']} | samples | seeds | flow matching | likelihood | flow matching, then likelihood |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["likelihood"]:
        nlls = " | ".join("-" if row[objective] is None else f"{row[objective]:.2f}" for objective in OBJECTIVES)
        lines.append(f"| {NAMES[row['model']]} | {row['samples']} | {row['seeds']} | {nlls} |")
    return lines


def _entry(entry: dict[str, Any]) -> str:
    published = f"({entry['published']:.2f})"
    if entry["nll"] is None:
        return f"- {published}"
    spread = "" if entry["spread"] is None else f" ± {entry['spread']:.2f}"
    return f"{entry['nll']:.2f}{spread} {published}"


def _with_floor(result: Result, data: Particles) -> Result:
    # The entropy may have been computed again since the cell was trained.
    return replace(result, above_floor=None if data.entropy is None else result.nll - data.entropy)


def _nlls(results: Sequence[Result], model: str, samples: int) -> list[float]:
    return [r.nll for r in results if (r.cell.model, r.cell.samples) == (model, samples)]
