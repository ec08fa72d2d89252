"""Quality against cost: the same molecules by more and by fewer evaluations of the velocity."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from enflow.model.chem.analysis.metrics import Share, Stability, stability, validity
from enflow.model.config import TOLERANCES
from enflow.model.errors import StructureError
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.batched_solver import PAIRS
from enflow.model.flow.ode.dopri5 import Status
from enflow.model.flow.ode.torchdiffeq_solver import march
from enflow.model.flow.states import Sample
from enflow.model.progress import ProgressCallback
from enflow.model.training.evaluation.evaluate import collect
from enflow.model.training.evaluation.journal import Journal, SampleRecord

STEPS = (8, 15, 25, 50, 100)
"""Of Heun's method, two evaluations each."""


def curve(
    flow: MoleculeFlow,
    weights_sha256: str,
    folder: Path,
    samples: int,
    seed: int,
    report: ProgressCallback,
    steps: Sequence[int] = STEPS,
    tolerances: Mapping[str, float] = TOLERANCES,
) -> list[dict[str, Any]]:
    """One point per named tolerance of the adaptive solver and per number of Heun steps, each of the same molecules.

    Args:
        flow: the model.
        weights_sha256: of its weights.
        folder: of the journals, which a second call goes on with.
        samples: molecules per point, fixed by (seed, index).
        seed: of their sizes and noise.
        report: told of progress.
        steps, tolerances: the points.

    Returns:
        For each point its name, method, mean evaluations, shares with 95 % intervals, and how many points of molecule
        stability it lies behind the tightest tolerance, molecule by molecule, with the standard error of that.
    """
    entries = {}
    for name in [*tolerances, *(f"heun-{n}" for n in steps)]:
        what = {"weights_sha256": weights_sha256, "seed": seed, "solver": tolerances.get(name, name)}
        journal = Journal(folder / f"curve-{name}.jsonl", what, SampleRecord)
        todo = [index for index in range(samples) if index not in journal.entries]
        sizes = {index: flow.draw_n_atoms(seed, index) for index in todo}
        if name in tolerances:
            found = flow.samples(list(sizes.values()), seed, tolerances[name], tolerances[name], indices=list(sizes))
        else:
            found = heun_samples(flow, sizes, seed, int(name.removeprefix("heun-")))
        collect(found, sizes, journal, samples, report)
        entries[name] = [journal.entries[index] for index in range(samples)]
    best = _stable(entries[min(tolerances, key=tolerances.__getitem__)])
    return [_point(name, "adaptive" if name in tolerances else "heun", e, best) for name, e in entries.items()]


def heun_samples(flow: MoleculeFlow, sizes: Mapping[int, int], seed: int, steps: int) -> Iterator[Sample]:
    """The molecules of (seed, index) by equal steps of Heun's method.

    Args:
        sizes: atoms of each molecule, by index.
    """
    for n_atoms in sorted(set(sizes.values())):
        indices = [index for index, size in sizes.items() if size == n_atoms]
        at_once = max(1, PAIRS.get(flow.device.type, PAIRS["cpu"]) // n_atoms**2)
        for start in range(0, len(indices), at_once):
            yield from _marched(flow, indices[start : start + at_once], n_atoms, seed, steps)


@torch.no_grad()
def _marched(flow: MoleculeFlow, indices: Sequence[int], n_atoms: int, seed: int, steps: int) -> list[Sample]:
    like = torch.empty(0, dtype=flow.dtype, device=flow.device)
    x, h = (torch.stack(parts).to(like) for parts in zip(*(flow.draw_latent(n_atoms, seed, i) for i in indices)))  # noqa: B905
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    x, h = march(flow.velocity, x, h, mask, steps)
    found = []
    for row, index in enumerate(indices):
        one = slice(row, row + 1)
        try:
            (molecule,) = flow.land(x[one], h[one], mask[one])
            found.append(Sample(index, molecule, Status.SUCCESS, 2 * steps))
        except StructureError:
            found.append(Sample(index, None, Status.NON_FINITE, 2 * steps))
    return found


def _stable(entries: Sequence[SampleRecord]) -> np.ndarray:
    """1 for a stable molecule, 0 for another or none."""
    return np.array([float(_stability(g).stable.all()) if g.molecule else 0.0 for g in entries])


def _stability(one: SampleRecord) -> Stability:
    assert one.molecule is not None, "asked only of those that came to be molecules"
    return stability([one.molecule])


def _point(name: str, method: str, entries: Sequence[SampleRecord], best: np.ndarray) -> dict[str, Any]:
    n, stable = len(entries), _stable(entries)
    molecules = [m for g in entries if (m := g.molecule)]
    valid = validity(molecules, "EDM") if molecules else None
    counts = {"molecule_stability": int(stable.sum()), "validity": len(valid.smiles) if valid else 0}
    shares = {key: Share(count, n) for key, count in counts.items()}
    behind = 100 * (best - stable)
    return {
        "name": name,
        "method": method,
        "samples": n,
        "nfe_mean": float(np.mean([g.nfe for g in entries])),
        "atom_stability": sum(int(_stability(g).stable_atoms.sum()) for g in entries if g.molecule)
        / sum(g.n_atoms for g in entries),
        **{key: share.value for key, share in shares.items()},
        "intervals_95": {key: [share.interval.low, share.interval.high] for key, share in shares.items()},
        "points_behind_precise": float(behind.mean()),
        "points_behind_precise_se": float(behind.std() / max(1, n - 1) ** 0.5),
    }
