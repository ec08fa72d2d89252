"""The effect of the condition on an even number of electrons: the same weights and noise, with and without it.

    python -m benchmarks.parity [MOLECULES [WEIGHTS]]

Default: 1,000 molecules of weights/qm9, tolerance 1e-3, seed 0. The weights may be trained with or without it.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import enflow
from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.chem.analysis.metrics import Share, stability, validity
from enflow.model.config import FlowConfig, VectorEGNNConfig
from enflow.model.flow.molecule_flow import MoleculeFlow

BUNDLED = Path(enflow.__file__).parent / "weights" / "qm9"


def conditioned(weights: Path, condition: bool) -> MoleculeFlow:
    """Return the flow of these weights with or without the condition."""
    flow = load(weights)
    dynamics = flow.config.dynamics
    assert isinstance(dynamics, VectorEGNNConfig)
    odd = tuple(i for i, number in enumerate(flow.config.vocabulary) if number % 2) if condition else ()
    changed = MoleculeFlow(replace(flow.config, dynamics=replace(dynamics, odd_types=odd)))
    changed.load_state_dict(flow.state_dict())
    return changed.requires_grad_(False).eval()


def measured(flow: MoleculeFlow, count: int) -> dict[str, Any]:
    """Return shares with their intervals, and the mean NFE, of `count` samples."""
    found = list(flow.samples([None] * count, seed=0, refinements=0))
    molecules = [one.molecule for one in found if one.molecule]
    even = Share(sum(int(m.atomic_numbers.sum()) % 2 == 0 for m in molecules), count)
    stable, valid = stability(molecules), validity(molecules, "EDM")
    shares = {"even electrons": even, "stable": stable.molecules, "valid": valid.validity}
    intervals = {name: (share.value, share.interval.low, share.interval.high) for name, share in shares.items()}
    return intervals | {"atoms": stable.atom_stability, "evaluations": sum(one.nfe for one in found) / count}


def main(count: int, weights: Path) -> None:
    torch.set_num_threads(1)
    card = read_card(weights)
    assert isinstance(card.config, FlowConfig)
    found = {name: measured(conditioned(weights, name == "with"), count) for name in ("without", "with")}
    columns = ["", "even number of electrons %", "molecules stable %", "valid %", "atoms stable %", "evaluations"]
    rows = []
    for name, one in found.items():
        shares = [one[key] for key in ("even electrons", "stable", "valid")]
        cells = [f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})" for value, low, high in shares]
        rows.append([f"{name} the condition", *cells, f"{100 * one['atoms']:.1f}", f"{one['evaluations']:.1f}"])
    facts = {"weights": card.name, "weights_sha256": card.weights_sha256, "molecules": count, "found": found}
    write_results("parity", f"{count} molecules of {card.name}", columns, rows, facts)
    if weights == BUNDLED:
        lines = ["| " + " | ".join(row) + " |" for row in (columns, *rows)]
        lines.insert(1, "|---" * len(columns) + "|")
        write_section(
            DOCS / "science.md", "parity", "\n".join([f"{count:,} molecules, with 95 % intervals:", "", *lines])
        )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[0]) if arguments else 1000, Path(arguments[1]) if arguments[1:] else BUNDLED)
