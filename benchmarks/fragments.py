"""Molecules around held-out fragments: by the model of fragments, and by replacement with the joint model.

    python -m benchmarks.fragments [FRAGMENTS [WEIGHTS]]

Default: 1,000 random connected parts of test molecules, one molecule of the true size around each, with
weights/qm9-fragment at tolerance 1e-3. Half as many molecules with two separate parts at fixed positions (linkers).
Five molecules around each of a twentieth of the fragments tell how many differ. As many are scored.

The baseline needs no training: the joint model weights/qm9 takes 32 steps of Heun's method, and before every step the
given atoms are replaced by themselves with the noise of that time (Song et al., ICLR 2021; Lugmayr et al., CVPR 2022).
The noise is coupled to the fragment; the flow chooses the fragment's place among the others.

Needs the reference data: the folder of the environment variable ENFLOW_SHARED, by default `shared` beside the checkout.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.bench_bonds import held_out
from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.card import read_card
from enflow.model.checkpoint import load_fragments, load_molecules
from enflow.model.chem.analysis.metrics import Share, bootstrap, stability
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.connectivity import in_one_piece, joined
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError
from enflow.model.flow.completion import Completion, completion_of
from enflow.model.flow.components import FlowComponents
from enflow.model.flow.coupling import rotate_onto
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.geometry import centre
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.refinement import refined, refinement_times
from enflow.model.flow.states import Latent
from enflow.model.training.data.fragments import random_fragment

WEIGHTS = Path(__file__).parents[1] / "weights"
STEPS, TOLERANCE, BATCH, COPIES = 32, 1e-3, 64, 5
SIZES = {"1 or 2 heavy atoms": (1, 2), "3 to 5 heavy atoms": (3, 5), "6 to 8 heavy atoms": (6, 8)}
TRIES = 100
Sampler = Callable[[Sequence[Completion], int], list[Molecule | None]]
"""Return a molecule around each fragment, the fragment first, with the noise of the places from an index on."""


def one_part(molecule: Molecule, rng: np.random.Generator) -> Completion | None:
    """Return the molecule with a random connected part as the given atoms."""
    part = random_fragment(molecule.atomic_numbers, molecule.positions, rng)
    return Completion(molecule, tuple(np.flatnonzero(part).tolist()))


def two_parts(molecule: Molecule, rng: np.random.Generator) -> Completion | None:
    """Return the molecule with two random parts without a bond between them; None where none were found."""
    bonds = joined(molecule.atomic_numbers, molecule.positions)
    for _ in range(TRIES):
        a, b = (random_fragment(molecule.atomic_numbers, molecule.positions, rng) for _ in range(2))
        if not (a & b).any() and not bonds[a][:, b].any() and not (a | b).all():
            return Completion(molecule, tuple(np.flatnonzero(a | b).tolist()))
    return None


def fragment_of(completion: Completion) -> Molecule:
    """Return the given atoms."""
    given = list(completion.given)
    return Molecule(completion.molecule.atomic_numbers[given], completion.molecule.positions[given])


def molecule_or_none(flow: FlowComponents, x: Tensor, h: Tensor) -> Molecule | None:
    """Return the molecule of a point at t = 1; None where it is not finite or far out."""
    try:
        (found,) = flow.to_molecules(x[None], h[None], torch.ones(1, len(x), dtype=torch.bool))
    except StructureError:
        return None
    return Molecule(found.atomic_numbers, found.positions)


def by_the_model(
    flow: FragmentFlow, refinements: int, completions: Sequence[Completion], first: int
) -> list[Molecule | None]:
    """Sample by the model of fragments; see `Sampler`."""
    given = [fragment_of(each) for each in completions]
    sizes = [each.molecule.n_atoms for each in completions]
    latents = [flow.draw_completion(given[i], n, 0, first + i) for i, n in enumerate(sizes)]

    def noised(i: int, molecule: Molecule, t: float, number: int) -> Latent:
        return flow.noised_completion(completion_of(molecule, given[i]), t, 0, first + i, number)

    samples = refined(flow, noised, latents, refinement_times(refinements), TOLERANCE, TOLERANCE)
    found = {one.index: one.molecule for one in samples}
    return [found[i] for i in range(len(completions))]


def coupled_noise(flow: MoleculeFlow, completion: Completion, index: int) -> tuple[Tensor, ...]:
    """Return the noise x0 and h0, the fragment's x1 and h1 (zero elsewhere), and its flag, for the fragment first.

    The fragment gets the noise at the least distance, as in flow matching, and the noise is rotated onto it. Its noise
    is relative to its own mean.
    """
    m, n = len(completion.given), completion.molecule.n_atoms
    x0, h0 = (part.numpy() for part in flow.draw_latent(n, 0, index))
    data = flow.dequantize([fragment_of(completion)], 0, [index])
    x1, h1 = np.zeros_like(x0), np.zeros_like(h0)
    x1[:m], h1[:m] = data.x[0], data.h[0]
    chosen = linear_sum_assignment(-x1[:m] @ x0.T - h1[:m] @ h0.T)[1]
    order = np.concatenate([chosen, np.setdiff1d(np.arange(n), chosen)])
    x0 = rotate_onto(x0[order][None], x1[None])[0]
    x0[:m] -= x0[:m].mean(0)
    flag = np.arange(n)[:, None] < m
    return tuple(torch.from_numpy(part) for part in (x0, h0[order], x1, h1, flag))


@torch.no_grad()
def by_replacement(flow: MoleculeFlow, completions: Sequence[Completion], first: int) -> list[Molecule | None]:
    """Sample by the joint model, in which the given atoms are replaced before every step; see `Sampler`."""
    rows = zip(*(coupled_noise(flow, each, first + i) for i, each in enumerate(completions)), strict=True)
    *numbers, flag = (pad_sequence(list(row), batch_first=True) for row in rows)
    x0, h0, x1, h1 = (each.to(flow.dtype) for each in numbers)
    sizes = torch.tensor([each.molecule.n_atoms for each in completions])
    mask = torch.arange(int(sizes.max())) < sizes[:, None]

    def with_fragment(t: float, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state with the given atoms as they are at time t, at the place where the flow has them."""
        place = (x * flag).sum(1, keepdim=True) / flag.sum(1, keepdim=True)
        x = torch.where(flag, torch.lerp(x0, x1, t) + place, x)
        return centre(x, mask), torch.where(flag, torch.lerp(h0, h1, t), h)

    x, h = centre(x0, mask), h0
    for step in range(STEPS):
        x, h = with_fragment(step / STEPS, x, h)
        x, h = heun_step(flow, step / STEPS, (x, h), mask)
    x, h = with_fragment(1.0, x, h)
    return [molecule_or_none(flow, x[i, :n], h[i, :n]) for i, n in enumerate(sizes.tolist())]


def heun_step(flow: MoleculeFlow, time: float, state: tuple[Tensor, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state one step later, by Heun's method."""
    (x, h), t, dt = state, torch.full((len(mask),), time, dtype=flow.dtype), 1 / STEPS
    dx, dh = flow.velocity(t, x, h, mask)
    ahead_x, ahead_h = flow.velocity(t + dt, x + dt * dx, h + dt * dh, mask)
    return x + dt / 2 * (dx + ahead_x), h + dt / 2 * (dh + ahead_h)


@dataclass(frozen=True)
class Judged:
    """The verdict on one molecule around a fragment.

    Attributes:
        connected: its atoms are in one piece, by covalent radii.
        stable: all atoms are stable, by E-NF's table.
        smiles: its canonical SMILES; None where it is not valid.
        recovered: it is the molecule from which the fragment was taken.
    """

    connected: bool = False
    stable: bool = False
    smiles: str | None = None
    recovered: bool = False


def judged(found: Molecule | None, truth: str | None) -> Judged:
    """Return the verdict on a molecule, given the SMILES of the true one."""
    if found is None:
        return Judged()
    smiles, stable = infer_bonds(found).smiles, bool(stability([found]).stable[0])
    return Judged(in_one_piece(found), stable, smiles, smiles is not None and smiles == truth)


def shares(verdicts: Sequence[Judged]) -> dict[str, list[float]]:
    """Return shares with their 95 % intervals."""
    columns = {
        "connected": [each.connected for each in verdicts],
        "stable": [each.stable for each in verdicts],
        "stable and connected": [each.stable and each.connected for each in verdicts],
        "valid": [each.smiles is not None for each in verdicts],
        "the true molecule": [each.recovered for each in verdicts],
    }
    counted = {name: Share(sum(each), len(each)) for name, each in columns.items()}
    return {name: [one.value, one.interval.low, one.interval.high] for name, one in counted.items()}


def uniqueness(groups: Sequence[Sequence[Judged]]) -> list[float]:
    """Return the share of different molecules among the valid ones around the same fragment, with its interval."""
    smiles = [[each.smiles for each in group if each.smiles is not None] for group in groups]
    different, valid = (np.array([len(kind(each)) for each in smiles if each]) for kind in (set, list))
    if not len(valid):
        return [float("nan")] * 3
    interval = bootstrap(different, valid)
    return [float(different.sum() / valid.sum()), interval.low, interval.high]


def mean_nll(flow: FragmentFlow, found: Sequence[Molecule | None], given: Sequence[int]) -> list[float]:
    """Return the mean of -log p(other atoms | fragment, N), nats, by the model of fragments, with its interval."""
    completions = [Completion(one, tuple(range(m))) for one, m in zip(found, given, strict=True) if one]
    scores = flow.log_prob(completions, draws=1, probes=1, rtol=TOLERANCE, atol=TOLERANCE)
    nll = np.array([score.nll for score in scores if np.isfinite(score.nll)])
    interval = bootstrap(nll, np.ones_like(nll))
    return [float(nll.mean()), interval.low, interval.high]


def in_batches(sample: Sampler, completions: Sequence[Completion]) -> list[Molecule | None]:
    """Return one molecule around each fragment."""
    firsts = range(0, len(completions), BATCH)
    return [each for first in firsts for each in sample(completions[first : first + BATCH], first)]


def heavy(completion: Completion) -> int:
    """Return the number of heavy atoms of the fragment."""
    return int((fragment_of(completion).atomic_numbers > 1).sum())


def figures(
    flow: FragmentFlow, samplers: dict[str, Sampler | None], completions: Sequence[Completion], scored: int, copied: int
) -> dict[str, dict[str, Any]]:
    """Return the row of every way to make molecules around fragments; a way None gives the true molecules.

    Args:
        flow: the model of fragments, which scores the molecules of all ways.
        samplers: the ways.
        completions: the true molecules with their fragments.
        scored: the number of molecules that are scored.
        copied: the number of fragments with several molecules; 0 = none.
    """
    truth = [infer_bonds(each.molecule).smiles for each in completions]
    given = [len(each.given) for each in completions[:scored]]
    rows = {}
    for name, sample in samplers.items():
        found = in_batches(sample, completions) if sample else [each.ordered for each in completions]
        verdicts = [judged(*pair) for pair in zip(found, truth, strict=True)]
        rows[name] = {**shares(verdicts), "NLL": mean_nll(flow, found[:scored], given)}
        if sample and copied:
            # The noise of a molecule belongs to its place, so that copies of a fragment at other places differ.
            copies = in_batches(sample, [each for each in completions[:copied] for _ in range(COPIES)])
            some = [judged(each, None) for each in copies]
            groups = [some[first : first + COPIES] for first in range(0, len(some), COPIES)]
            rows[name]["unique"] = uniqueness(groups)
        for size, (low, high) in SIZES.items() if sample and copied else ():
            of_size = [one for one, each in zip(verdicts, completions, strict=True) if low <= heavy(each) <= high]
            rows[f"{name}, {size}"] = shares(of_size)
        print(name, rows[name], flush=True)
    return rows


COLUMNS = ["connected", "stable", "stable and connected", "valid", "the true molecule", "unique"]


def cell(row: dict[str, list[float]], column: str) -> str:
    """Return a figure with its interval; a dash for one that was not measured."""
    if column not in row:
        return "-"
    factor, digits = (1, 0) if column == "NLL" else (100, 1)
    value, low, high = (f"{factor * each:.{digits}f}" for each in row[column])
    return f"{value} ({low} to {high})"


def section(tasks: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return a table for each task in Markdown, with the larger half of each interval."""
    tables = []
    for task, rows in tasks.items():
        lines = [f"| {task} | {' | '.join(COLUMNS)} | NLL |", "|---" * (len(COLUMNS) + 2) + "|"]
        for name, row in rows.items():
            lines.append(f"| {name} | " + " | ".join(short(row, each) for each in [*COLUMNS, "NLL"]) + " |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def short(row: dict[str, list[float]], column: str) -> str:
    """Return a figure and the larger half of its interval; a dash for one that was not measured."""
    if column not in row:
        return "-"
    factor, digits = (1, 0) if column == "NLL" else (100, 1)
    value, low, high = (factor * each for each in row[column])
    return f"{value:.{digits}f} ± {max(high - value, value - low):.{digits}f}"


def main(count: int, weights: Path) -> None:
    torch.set_num_threads(1)
    flow, joint, rng = load_fragments(weights), load_molecules(WEIGHTS / "qm9"), np.random.default_rng(0)
    samplers: dict[str, Sampler | None] = {
        "the true molecules": None,
        "refined": partial(by_the_model, flow, flow.config.refinements),
        "not refined": partial(by_the_model, flow, 0),
        "replacement": partial(by_replacement, joint),
    }
    molecules, tasks = held_out(count), {}
    for name, chosen, part, copied in (
        ("a fragment", molecules, one_part, max(count // 20, 1)),
        ("two fragments", molecules[: count // 2], two_parts, 0),
    ):
        completions = [each for molecule in chosen if (each := part(molecule, rng))]
        tasks[name] = figures(flow, samplers, completions, max(len(completions) // 20, 5), copied)
    rows = [
        [f"{task}: {name}", *(cell(one, each) for each in [*COLUMNS, "NLL"])]
        for task, kinds in tasks.items()
        for name, one in kinds.items()
    ]
    facts = {"weights_sha256": read_card(weights).weights_sha256, "fragments": count, "copies": COPIES, "tasks": tasks}
    write_results("fragments", f"Molecules around {count} held-out fragments", ["", *COLUMNS, "NLL"], rows, facts)
    write_section(DOCS / "science.md", "fragments", section(tasks))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1000, Path(sys.argv[2]) if sys.argv[2:] else WEIGHTS / "qm9-fragment")
