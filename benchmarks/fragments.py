"""Molecules around held-out fragments: by the model of fragments, and by replacement with the joint model.

    python -m benchmarks.fragments [FRAGMENTS [WEIGHTS]]

Default: 1,000 random parts of test molecules, one molecule of the true size around each, weights/qm9-fragment at
tolerance 1e-3. The baseline needs no training: the joint model weights/qm9 takes 50 steps of Heun's method, and before
every step the given atoms are replaced by themselves with the noise of that time (Song et al., ICLR 2021; Lugmayr et
al., CVPR 2022).

Needs the reference data: the folder of the environment variable ENFLOW_SHARED, by default `shared` beside the checkout.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench_bonds import held_out
from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.card import read_card
from enflow.model.checkpoint import load, load_fragments
from enflow.model.chem.analysis.metrics import Share, stability, validity
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.connectivity import in_one_piece
from enflow.model.chem.molecule import Molecule
from enflow.model.flow.completion import Completion
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.geometry import centre
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.noise import generator, normal
from enflow.model.training.data.fragments import random_fragment

WEIGHTS = Path(__file__).parents[1] / "weights"
STEPS, TOLERANCE, BATCH = 50, 1e-3, 64


def held_out_fragments(count: int) -> list[Completion]:
    """Return test molecules, with a random connected part of each as the given atoms."""
    rng = np.random.default_rng(0)
    parts = [(each, random_fragment(each.atomic_numbers, each.positions, rng)) for each in held_out(count)]
    return [Completion(molecule, tuple(np.flatnonzero(part).tolist())) for molecule, part in parts]


def by_the_model(flow: FragmentFlow, completions: Sequence[Completion]) -> list[Molecule]:
    """Return one molecule around each fragment, the fragment first."""
    found = list[Molecule]()
    for first in range(0, len(completions), BATCH):
        part = completions[first : first + BATCH]
        latents = [
            flow.draw_completion(fragment_of(each), each.molecule.n_atoms, 0, first + i) for i, each in enumerate(part)
        ]
        found += flow.decode(latents, TOLERANCE, TOLERANCE)
    return found


def by_replacement(flow: MoleculeFlow, completions: Sequence[Completion]) -> list[Molecule]:
    """Return one molecule around each fragment, the fragment first, by the joint model without training."""
    return [_replaced(flow, each, index) for index, each in enumerate(completions)]


@torch.no_grad()
def _replaced(flow: MoleculeFlow, completion: Completion, index: int) -> Molecule:
    m, n = len(completion.given), completion.molecule.n_atoms
    point = flow.dequantize([completion.ordered], 0, [index])
    mask, source = point.mask, generator(0, index, "latent")
    x0, h0 = normal((n, 3), source).to(point.x), normal((n, point.h.shape[-1]), source).to(point.h)
    given_x, given_h = point.x[:, :m] - point.x[:, :m].mean(1, keepdim=True), point.h[:, :m]
    x, h = centre(x0[None], mask), h0[None]

    def with_fragment(t: float, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state with the given atoms as they are at time t, at the place where the flow has them."""
        noised = t * given_x + (1 - t) * (x0[:m] - x0[:m].mean(0)) + x[:, :m].mean(1, keepdim=True)
        x = torch.cat([noised, x[:, m:]], 1)
        return centre(x, mask), torch.cat([t * given_h + (1 - t) * h0[:m], h[:, m:]], 1)

    dt = 1 / STEPS
    for step in range(STEPS):
        x, h = with_fragment(step * dt, x, h)
        t = torch.full((1,), step * dt)
        dx, dh = flow.velocity(t, x, h, mask)
        ahead = flow.velocity(t + dt, x + dt * dx, h + dt * dh, mask)
        x, h = x + dt / 2 * (dx + ahead[0]), h + dt / 2 * (dh + ahead[1])
    (molecule,) = flow.to_molecules(*with_fragment(1.0, x, h), mask)
    return molecule


def fragment_of(completion: Completion) -> Molecule:
    """Return the given atoms."""
    given = list(completion.given)
    return Molecule(completion.molecule.atomic_numbers[given], completion.molecule.positions[given])


def figures(found: Sequence[Molecule], completions: Sequence[Completion]) -> dict[str, Any]:
    """Return shares with their 95 % intervals."""
    stable = np.array([stability([each]).molecules.count for each in found], bool)
    valid = np.array([validity([each], "EDM").validity.count for each in found], bool)
    whole = np.array([in_one_piece(each) for each in found])
    recovered = [
        infer_bonds(each).smiles == infer_bonds(truth.molecule).smiles is not None
        for each, truth in zip(found, completions, strict=True)
    ]
    columns = {
        "connected": whole,
        "stable": stable,
        "stable and connected": stable & whole,
        "valid": valid,
        "the true molecule": np.array(recovered),
    }
    shares = {name: Share(int(each.sum()), len(found)) for name, each in columns.items()}
    return {name: [one.value, one.interval.low, one.interval.high] for name, one in shares.items()}


def section(facts: dict[str, dict[str, Any]]) -> str:
    """Return the table in Markdown."""
    names = list(next(iter(facts.values())))
    lines = [f"| % | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for name, one in facts.items():
        cells = [f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})" for value, low, high in one.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(count: int, weights: Path) -> None:
    torch.set_num_threads(1)
    completions = held_out_fragments(count)
    found = {
        "the true molecules": [each.ordered for each in completions],
        "model of fragments": by_the_model(load_fragments(weights), completions),
        "replacement, joint model": by_replacement(load(WEIGHTS / "qm9"), completions),
    }
    facts = {name: figures(molecules, completions) for name, molecules in found.items()}
    rows = [[name, *(f"{100 * value:.1f}" for value, _, _ in one.values())] for name, one in facts.items()]
    columns = ["%", *facts["the true molecules"]]
    write_results(
        "fragments",
        f"Molecules around {count} held-out fragments",
        columns,
        rows,
        {"weights_sha256": read_card(weights).weights_sha256, "fragments": count, "ways": facts},
    )
    write_section(DOCS / "science.md", "fragments", section(facts))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1000, Path(sys.argv[2]) if sys.argv[2:] else WEIGHTS / "qm9-fragment")
