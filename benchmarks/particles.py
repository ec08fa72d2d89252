"""The publication of the tables of particle systems: results/, docs/images and sections of docs/particles.md.

    python -m benchmarks.particles [FOLDER]

FOLDER is the --folder of `enflow particles table` (default: runs/particles). Systems without cells in it keep their
results; their charts and sections are written again. Nothing is measured here; the numbers of bundled weights are those
of their cards.
"""

import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import DOCS, RESULTS, write_section
from enflow.model.card import read_card
from enflow.model.config import from_json
from enflow.model.training.data.particles import SYSTEMS, load, read_summary
from enflow.model.training.data.qm9 import data_file
from enflow.model.training.experiments.particle_cells import SIZES, Result
from enflow.model.training.experiments.particle_report import NAMES, figure, publish, text

WEIGHTS = Path(__file__).parents[1] / "weights"
SHORTER = "GNN, attention, augmentation", "GNN, att., augmentation"
"""A name in the reports and its form in docs/particles.md, whose rows have at most 120 characters."""


def gather(folder: Path, system: str) -> dict[str, Any]:
    """Collect all results of a system and write them to results/."""
    document = {"benchmark": f"particles_{system}", **publish(folder, load(system))}
    if system in SYSTEMS:
        document["facts"] = asdict(read_summary(data_file(f"{system}.npz").parent, system))
    document["evaluated"] = {
        card.parent.name: metrics
        for card in sorted(folder.glob(f"{system}-*/card.json"))
        if "distance_jsd" in (metrics := json.loads(card.read_text())["metrics"])
    }
    (RESULTS / f"particles_{system}.json").write_text(json.dumps(document) + "\n")
    return document


def current(folder: Path, system: str) -> dict[str, Any] | None:
    """Return the results of a system from the cells of a folder or, without cells, from results/; None without both."""
    if any(folder.glob(f"{system}-*.json")):
        return gather(folder, system)
    path = RESULTS / f"particles_{system}.json"
    return json.loads(path.read_text()) if path.exists() else None


def draw(document: dict[str, Any]) -> None:
    """Draw the chart of a system to docs/images."""
    system = document["system"]
    results = [from_json(Result, cell, "cell") for cell in document["cells"]]
    matching = [result for result in results if result.cell.objective == "flow_matching"]
    (DOCS / "images" / f"particles-{system}.svg").write_text(figure(system, document["floor"], matching))


def samples(documents: dict[str, dict[str, Any]]) -> str:
    """Return the table of sampling diagnostics and of the entropy."""
    facts = [documents[system]["facts"] for system in SYSTEMS]
    rows = {
        "samples": [f"{f['samples']:,}" for f in facts],
        "virial, beside the dimensions": [
            f"{f['virial']:.2f} ± {f['virial_error']:.2f}, {f['dimensions']}" for f in facts
        ],
        "split-R-hat, the largest of four quantities": [f"{max(f['r_hat'].values()):.3f}" for f in facts],
        "effective samples, the fewest of four quantities": [
            f"{min(f['effective_samples'].values()):,.0f}" for f in facts
        ],
        "mean energy": [f"{f['mean_energy']:.3f} ± {f['mean_energy_error']:.3f}" for f in facts],
        "log Z from below": [_with_error(f["normaliser"], "from_below") for f in facts],
        "log Z from above": [_with_error(f["normaliser"], "from_above") for f in facts],
        "log Z by both": [_with_error(f["normaliser"], "log_z") for f in facts],
        "**entropy: the floor, nats**": [f"**{f['entropy']:.3f} ± {f['entropy_error']:.3f}**" for f in facts],
    }
    lines = ["| | DW4 | LJ13 |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(values)} |" for name, values in rows.items())])


def budget(document: dict[str, Any]) -> str:
    """Return a sentence on the computation spent on a table and on the errors of its entries."""
    cells = [cell for cell in document["cells"] if cell["cell"]["objective"] == "flow_matching"]
    spent = {(c["effort"]["steps"], c["effort"]["batch_size"], c["effort"]["test_samples"]) for c in cells}
    errors = sorted(cell["nll_error"] for cell in cells)
    total = len(cells) + len(document["missing"])
    efforts = "; ".join(f"at most {s:,} steps of {b} samples, {t} test samples" for s, b, t in sorted(spent))
    minutes = sum(cell["seconds"] for cell in cells) / 60
    low, middle, high = errors[0], errors[len(errors) // 2], errors[-1]
    others = [cell for cell in document["cells"] if cell not in cells]
    fine = {(c["effort"]["likelihood_steps"], c["effort"]["batch_size"]) for c in others}
    fines = " or ".join(f"{s:,} steps of {b} samples" for s, b in sorted(fine))
    by_likelihood = f" By likelihood: at most {fines}." if fine else ""
    return (
        f"{document['system'].upper()}: {len(cells)} of {total} cells, {efforts}; error of an entry {low:.2f} to "
        f"{high:.2f} nats, median {middle:.2f}; training took {minutes:.0f} minutes of one core.{by_likelihood}"
    )


def reweighting() -> str:
    """Return the table of the bundled weights, from their cards."""
    lines = [
        "| | test NLL | test samples | floor | ESS % | samples | log Z by reweighting |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in SYSTEMS:
        m = read_card(WEIGHTS / name).metrics
        lines.append(
            f"| `weights/{name}` | {m['test_nll']:.3f} ± {m['test_nll_se']:.3f} | {m['test_samples']:,} | "
            f"{m['entropy_floor']:.3f} ± {m['entropy_floor_se']:.3f} | {100 * (m['ess'] or 0):.1f} | "
            f"{m['ess_samples']:,} | {m['log_z']:.3f} ± {m['log_z_se']:.3f} |"
        )
    return "\n".join(lines)


def qm9_positional(document: dict[str, Any]) -> str:
    """Return the table of QM9 positional: NLL and divergence of the pair distances."""
    lines = ["| | test NLL | the paper's | divergence of distances | steps |", "|---|---|---|---|---|"]
    for cell in document["cells"]:
        c = cell["cell"]
        name = "-".join(map(str, (c["system"], c["model"], c["samples"], c["seed"])))
        jsd = document["evaluated"].get(name, {}).get("distance_jsd")
        published = document["table"].get(c["model"], {}).get(str(c["samples"]), {}).get("published")
        lines.append(
            f"| {NAMES[c['model']]} | {cell['nll']:.1f} ± {cell['nll_error']:.1f} | "
            f"{'-' if published is None else published} | {'-' if jsd is None else f'{jsd:.4f}'} | {cell['steps']:,} |"
        )
    return "\n".join(lines)


def sections(documents: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the Markdown of every section of docs/particles.md, by name."""
    found = {"samples": samples(documents), "weights": reweighting()}
    for system in SYSTEMS:
        found[system] = text(documents[system]).replace(*SHORTER)
    items = [f"- {budget(documents[system])}" for system in SYSTEMS]
    found["effort"] = "\n".join(textwrap.fill(item, 120, subsequent_indent="  ") for item in items)
    if "qm9_positional" in documents:
        found["qm9_positional"] = qm9_positional(documents["qm9_positional"])
    return found


def main(folder: Path) -> None:
    documents = {system: document for system in SIZES if (document := current(folder, system))}
    for system in SYSTEMS:
        draw(documents[system])
    for name, section in sections(documents).items():
        write_section(DOCS / "particles.md", name, section)


def _with_error(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.3f} ± {values[f'{name}_error']:.3f}"


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/particles"))
