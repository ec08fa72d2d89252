"""A table of particles put where people read it: JSON, a figure that shows what equivariance buys, and Markdown."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from enflow.model.training.svg_charts import Point, Series, chart, standalone

SHOWN = {"enf": "E-NF", "gnn": "GNN", "gnn_att_aug": "GNN, attention, augmentation"}
NAMES = {
    **SHOWN,
    "gnn_att": "GNN, attention",
    "simple": "Simple dynamics",
    "kernel": "Kernel dynamics",
    VECTOR: "EGNN with vectors, not of the paper",
}
SEEDS = 3
MATCHING = OBJECTIVES[0]


def publish(folder: Path, data: Particles) -> dict[str, Any]:
    """Write SYSTEM.json and SYSTEM.svg of the finished cells in a folder; the content of the former."""
    every = [_above(result, data) for result in read_results(folder) if result.cell.system == data.name]
    results = [result for result in every if result.cell.objective == MATCHING]
    done = {result.cell for result in results}
    missing = [cell for cell in cells(data.name, MODELS, SIZES[data.name], SEEDS) if cell not in done]
    document = {
        "system": data.name,
        "floor": data.entropy,
        "floor_error": data.entropy_error,
        "data_sha256": data.sha256,
        "table": summary(data.name, results),
        "likelihood": likelihood(every),
        "missing": [cell.name for cell in missing],
        "hours_missing": hours(missing, results),
        "cells": [asdict(result) for result in every],
    }
    (folder / f"{data.name}.json").write_text(json.dumps(document, indent=1) + "\n")
    if drawing := figure(data, results):
        (folder / f"{data.name}.svg").write_text(drawing)
    return document


def summary(system: str, results: Sequence[Result]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """By model and size: mean over seeds, spread (standard deviation), number of seeds, the published figure."""
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


def likelihood(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Of every model and size that was trained by likelihood too: the means by objective over the seeds they share."""
    by_likelihood = [result for result in results if result.cell.objective != MATCHING]
    rows = []
    for model, size in dict.fromkeys((r.cell.model, r.cell.samples) for r in by_likelihood):
        alike = [r for r in results if (r.cell.model, r.cell.samples) == (model, size)]
        of = {
            objective: {r.cell.seed: r.nll for r in alike if r.cell.objective == objective} for objective in OBJECTIVES
        }
        shared = sorted(set.intersection(*(set(nlls) for nlls in of.values() if nlls)))
        means = {
            name: float(np.mean([nlls[s] for s in shared])) if nlls and shared else None for name, nlls in of.items()
        }
        rows.append({"model": model, "samples": size, "seeds": len(shared), **means})
    return sorted(rows, key=lambda row: (MODELS.index(str(row["model"])), row["samples"]))


def hours(missing: Sequence[Cell], results: Sequence[Result]) -> float | None:
    """Processor time to train the missing cells, by what finished ones of the same model, or of any, took."""
    if not results:
        return None
    every = float(np.mean([result.seconds for result in results]))
    total = 0.0
    for cell in missing:
        alike = [result.seconds for result in results if result.cell.model == cell.model]
        total += float(np.mean(alike)) if alike else every
    return round(total / 3600, 2)


def figure(data: Particles, results: Sequence[Result]) -> str:
    """NLL against training samples for the models that tell what equivariance buys, as SVG, with the floor drawn in."""
    series = []
    for model, name in SHOWN.items():
        found = [(size, _nlls(results, model, size)) for size in SIZES[data.name]]
        points: list[Point] = [(math.log10(size), float(np.mean(nlls))) for size, nlls in found if nlls]
        if points:
            series.append(Series(name, points))
    if series and data.entropy is not None:
        ends = [math.log10(size) for size in (SIZES[data.name][0], SIZES[data.name][-1])]
        series.append(Series("floor: the entropy", [(end, data.entropy) for end in ends]))
    return standalone(chart(f"Test NLL of {data.name.upper()}", "log10 of the training samples", "nats", series))


def text(document: dict[str, Any]) -> str:
    """The tables for people, in Markdown: mean ± spread over seeds, the published figure in brackets."""
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
    return "\n".join([*lines, *likelihood_text(document)])


def likelihood_text(document: dict[str, Any]) -> list[str]:
    """Lines of the table of objectives; none where nothing was trained by likelihood."""
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


def _above(result: Result, data: Particles) -> Result:
    # The floor may have been found anew since the cell was filled.
    return replace(result, above_floor=None if data.entropy is None else result.nll - data.entropy)


def _nlls(results: Sequence[Result], model: str, samples: int) -> list[float]:
    return [r.nll for r in results if (r.cell.model, r.cell.samples) == (model, samples)]
