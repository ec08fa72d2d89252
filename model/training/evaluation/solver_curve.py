"""The curve of quality against cost: the same molecules with more and with fewer evaluations of the velocity."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from enflow.model.chem.analysis.metrics import Share, Stability, stability, validity
from enflow.model.config import TOLERANCES
from enflow.model.errors import StructureError
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.batched_solver import BATCH_PAIRS
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.ode.torchdiffeq_solver import solve_heun
from enflow.model.flow.states import Sample
from enflow.model.progress import ProgressCallback
from enflow.model.training.evaluation.evaluate import record_samples
from enflow.model.training.evaluation.records import RecordFile, SampleRecord

STEPS = (8, 15, 25, 50, 100)
"""Numbers of steps of Heun's method; a step takes two evaluations."""


@dataclass(frozen=True)
class CurveConfig:
    """The points of a curve.

    Attributes:
        samples: number of molecules per point.
        seed: seed of their sizes and noise.
        steps: numbers of Heun steps.
        tolerances: tolerances of the adaptive solver, by name.
    """

    samples: int
    seed: int = 0
    steps: Sequence[int] = STEPS
    tolerances: Mapping[str, float] = field(default_factory=lambda: TOLERANCES)


def curve(
    flow: MoleculeFlow,
    weights_sha256: str,
    folder: Path,
    config: CurveConfig,
    report: ProgressCallback,
) -> list[dict[str, Any]]:
    """Measure the same molecules with every named tolerance of the adaptive solver and every number of Heun steps.

    Args:
        flow: the model.
        weights_sha256: hash of its weights.
        folder: folder of the records, with which a second call continues.
        config: the points.
        report: receives the progress.

    Returns:
        For each point: name, method, mean number of evaluations, shares with 95 % intervals, and the loss of molecule
        stability against the tightest tolerance in percentage points, paired by molecule, with its standard error.
    """
    seed, tolerances, indices = config.seed, config.tolerances, range(config.samples)
    by_point = {}
    for name in [*tolerances, *(f"heun-{n}" for n in config.steps)]:
        header = {"weights_sha256": weights_sha256, "seed": seed, "solver": tolerances.get(name, name)}
        records = RecordFile(folder / f"curve-{name}.jsonl", header, SampleRecord)
        missing = [index for index in indices if index not in records.records]
        sizes = {index: flow.draw_n_atoms(seed, index) for index in missing}
        if name in tolerances:
            found = flow.samples(
                list(sizes.values()), seed, tolerances[name], tolerances[name], indices=list(sizes), refinements=0
            )
        else:
            found = heun_samples(flow, sizes, seed, int(name.removeprefix("heun-")))
        record_samples(found, sizes, records, config.samples, report)
        by_point[name] = [records.records[index] for index in indices]
    best = _stable(by_point[min(tolerances, key=tolerances.__getitem__)])
    return [_point(name, "adaptive" if name in tolerances else "heun", e, best) for name, e in by_point.items()]


def heun_samples(flow: MoleculeFlow, sizes: Mapping[int, int], seed: int, steps: int) -> Iterator[Sample]:
    """Generate the molecules of (seed, index) by equal steps of Heun's method.

    Args:
        flow: the model.
        sizes: number of atoms of each molecule, by index.
        seed: seed of the noise.
        steps: number of steps.
    """
    for n_atoms in sorted(set(sizes.values())):
        indices = [index for index, size in sizes.items() if size == n_atoms]
        batch_size = max(1, BATCH_PAIRS.get(flow.device.type, BATCH_PAIRS["cpu"]) // n_atoms**2)
        for start in range(0, len(indices), batch_size):
            yield from _heun_batch(flow, indices[start : start + batch_size], n_atoms, seed, steps)


@torch.no_grad()
def _heun_batch(flow: MoleculeFlow, indices: Sequence[int], n_atoms: int, seed: int, steps: int) -> list[Sample]:
    like = torch.empty(0, dtype=flow.dtype, device=flow.device)
    x, h = (torch.stack(parts).to(like) for parts in zip(*(flow.draw_latent(n_atoms, seed, i) for i in indices)))  # noqa: B905
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    x, h = solve_heun(flow.velocity, x, h, mask, steps)
    found = []
    for row, index in enumerate(indices):
        one = slice(row, row + 1)
        try:
            (molecule,) = flow.to_molecules(x[one], h[one], mask[one])
            found.append(Sample(index, molecule, Status.SUCCESS, 2 * steps))
        except StructureError:
            found.append(Sample(index, None, Status.NON_FINITE, 2 * steps))
    return found


def _stable(entries: Sequence[SampleRecord]) -> np.ndarray:
    """Return 1 for a stable molecule and 0 for an unstable one or a failed sample."""
    return np.array([float(_stability(g).stable.all()) if g.molecule else 0.0 for g in entries])


def _stability(one: SampleRecord) -> Stability:
    assert one.molecule is not None, "the sample did not fail"
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
