"""The page of an evaluation: tables and charts in one HTML file that loads nothing from the network."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from enflow.model.chem.analysis.histograms import ANGLE_BINS, DISTANCE_BINS, LENGTH_BINS
from enflow.model.chem.elements import SYMBOLS
from enflow.model.training.evaluation.metrics import NFE_BINS, STRAIN_BINS
from enflow.model.training.evaluation.summary import lines
from enflow.model.training.svg_charts import Series, chart, histogram

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 92rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1rem 0 2rem; }
td, th { text-align: right; padding: .1rem .8rem; border-bottom: 1px solid #e3e3e3; font-weight: 400; }
td:first-child, th:first-child { text-align: left; } code { font-size: 12px; overflow-wrap: anywhere; }
"""

HISTOGRAMS = {
    "distances": ("Distances of all pairs", "angstrom", DISTANCE_BINS.width),
    "bond_lengths": ("Bond lengths", "angstrom", LENGTH_BINS.width),
    "angles": ("Bond angles", "degrees", ANGLE_BINS.width),
    "sizes": ("Sizes", "atoms", 1.0),
    "ring_sizes": ("Ring sizes", "atoms, last bin open", 1.0),
    "rings": ("Rings per molecule", "rings, last bin open", 1.0),
    "strain": ("Strain (MMFF94)", "kcal/mol, last bin open", STRAIN_BINS.width),
    "nfe": ("Evaluations of the velocity", "per sample", NFE_BINS.width),
}
"""Name in evaluation.json -> title, label of the axis, width of a bin."""

TYPES = {
    "bond_types": "Bond lengths by type, angstrom (: is aromatic)",
    "angle_types": "Angles by type, degrees",
}
"""Name in evaluation.json -> title of the table."""

NLL_BIN = 25.0
"""Width of the bins of NLL, nats."""

CURVES = {"atom_stability": "atoms stable", "molecule_stability": "molecules stable", "validity": "valid"}


def page(name: str, report: Mapping[str, Any]) -> str:
    """Return the page of an evaluation.

    Args:
        name: name of the weights.
        report: content of evaluation.json: weights_sha256, made, metrics, plots, curve, own_nll.
    """
    title = f"{escape(name)}: samples, and likelihood of test molecules"
    origins = "".join(
        f"<p>{escape(part)}: <code>{escape(made['command'])}</code>, commit <code>{escape(made['git_commit'])}</code>, "
        f"{escape(made['created'])}</p>"
        for part, made in report.get("made", {}).items()
    )
    metrics = report.get("metrics", {})
    weights = escape(report.get("weights_sha256", ""))
    plots, points = report.get("plots", {}), report.get("curve", {}).get("points", [])
    types = [_types(title, plots.get(key, [])) for key, title in TYPES.items()]
    tables = [_elements(plots), _groups(plots), *types, _parts(metrics)]
    figures = [*_histograms(plots), _nll(plots), _own_nll(report.get("own_nll", {})), _curve(points), *tables]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{title}</h1>'
        f"<p>Weights <code>{weights}</code></p>{origins}{_table(metrics)}{_points(points)}"
        f"<main>{''.join(figures)}</main></body></html>\n"
    )


def _table(metrics: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td><td>{escape(spread)}</td></tr>"
        for name, value, spread in lines(metrics)
    )
    return f"<table><tr><th>figure</th><th>value</th><th>95 % interval or error</th></tr>{rows}</table>" if rows else ""


def _histograms(plots: Mapping[str, Any]) -> list[str]:
    return [
        histogram(title, label, plots[key], width) for key, (title, label, width) in HISTOGRAMS.items() if key in plots
    ]


def _elements(plots: Mapping[str, Any]) -> str:
    """Return the shares of the elements as a table."""
    counts = plots.get("elements")
    if counts is None:
        return ""
    rows = "".join(
        f"<tr><td>{SYMBOLS[z - 1]}</td>"
        + "".join(f"<td>{values[z] / sum(values):.4f}</td>" for values in counts.values())
        for z in range(1, len(counts["samples"]))
        if any(values[z] for values in counts.values())
    )
    heads = "".join(f"<th>{escape(each)}</th>" for each in counts)
    return f"<figure><figcaption>Elements</figcaption><table><tr><th></th>{heads}</tr>{rows}</table></figure>"


def _groups(plots: Mapping[str, Any]) -> str:
    """Return the shares of molecules with each functional group as a table."""
    groups = plots.get("functional_groups", [])
    rows = [[name, f"{100 * share:.1f}", f"{100 * data:.1f}"] for name, share, data in groups]
    return _figure("Molecules with a functional group, %", ["", "samples", "data"], rows)


def _types(title: str, types: Sequence[Sequence[Any]]) -> str:
    """Return the types of bonds or angles with mean, standard deviation and divergence as a table."""
    heads = ["", "samples", "data", "mean ± deviation", "of the data", "divergence, nats"]
    rows = [
        [name, str(n), str(n_data), f"{mean:.3f} ± {spread:.3f}", f"{mean_data:.3f} ± {spread_data:.3f}", f"{jsd:.4f}"]
        for name, n, mean, spread, n_data, mean_data, spread_data, jsd in types
    ]
    return _figure(title, heads, rows)


def _figure(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a title; nothing without rows."""
    if not rows:
        return ""
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    return f"<figure><figcaption>{escape(title)}</figcaption><table><tr>{head}</tr>{cells}</table></figure>"


def _nll(plots: Mapping[str, Any]) -> str:
    points = [(float(n), mean, spread) for n, mean, spread in plots.get("nll", [])]
    return chart("NLL of test molecules by size", "atoms", "nats, two standard errors", [Series("NLL", points, "dots")])


def own_nll_counts(nll: Mapping[str, Sequence[float]]) -> tuple[dict[str, list[int]], float]:
    """Return the counts of NLL by kind in bins of `NLL_BIN` nats, and the left edge of the first bin.

    Args:
        nll: NLL of the molecules of each kind.
    """
    if not nll:
        return {}, 0.0
    together = np.concatenate(list(nll.values()))
    first, last = (int(np.floor(end / NLL_BIN)) for end in (together.min(), together.max()))
    edges = NLL_BIN * np.arange(first, last + 2)
    return {name: np.histogram(each, edges)[0].tolist() for name, each in nll.items()}, float(edges[0])


def _own_nll(nll: Mapping[str, Sequence[float]]) -> str:
    counts, first = own_nll_counts(nll)
    return histogram("Likelihood of test molecules and of the model's samples", "NLL, nats", counts, NLL_BIN, first)


def _parts(metrics: Mapping[str, Any]) -> str:
    parts = metrics.get("test_nll_parts")
    if not parts:
        return ""
    rows = "".join(f"<tr><td>{escape(part)}</td><td>{value:.1f}</td></tr>" for part, value in parts.items())
    return f"<figure><figcaption>NLL in parts, nats</figcaption><table>{rows}</table></figure>"


def _curve(points: list[Mapping[str, Any]]) -> str:
    """Return the chart of quality over evaluations: lines for Heun's fixed steps, dots for the tolerances."""
    series = []
    for key, label in CURVES.items():
        heun = [(p["nfe_mean"], 100 * p[key]) for p in points if p["method"] == "heun"]
        series.append(Series(f"{label}, Heun", sorted(heun)))
    adaptive = [(p["nfe_mean"], 100 * p[key]) for p in points if p["method"] == "adaptive" for key in CURVES]
    series.append(Series("draft, standard, precise", adaptive, "dots"))
    return chart("Quality against evaluations, without refinement", "evaluations per sample", "%", series)


def _points(points: list[Mapping[str, Any]]) -> str:
    if not points:
        return ""
    rows = "".join(
        f"<tr><td>{escape(p['name'])}</td><td>{p['nfe_mean']:.1f}</td>"
        + "".join(f"<td>{100 * p[key]:.1f}</td>" for key in CURVES)
        + f"<td>{p['points_behind_precise']:+.1f} ± {p['points_behind_precise_se']:.1f}</td></tr>"
        for p in points
    )
    heads = "".join(f"<th>{label} %</th>" for label in CURVES.values())
    heads = f"<th>solver</th><th>evaluations</th>{heads}<th>molecules stable, points behind precise</th>"
    return f"<table><tr>{heads}</tr>{rows}</table>"
