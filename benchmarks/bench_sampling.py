"""The speed of sampling at equal error: Enflow against one padded batch of torchdiffeq, and the original network.

    python -m benchmarks.bench_sampling [--reference DIR]

DIR holds the checkpoint of E-NF's authors (flow.npy, dequantizer.npy). Without it the bundled weights are used and the
original network, which has another architecture, is left out. Each sampler gets the loosest tolerance at which its
positions are within 0.01 angstrom (RMS over all atoms of all molecules) of a tight solution in float64. With one step
size for all molecules, the few difficult ones determine the tolerance. The original uses the steps and the tolerance of
torchdiffeq, and Enflow allows the same error at all times, too. Enflow's velocity is compiled (`enflow compile`). Sizes
of QM9, float32, one thread, processor time.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchdiffeq import odeint

from benchmarks.bench_velocity import Original, compile_flow
from benchmarks.measure import by_turns, ratio, write_results
from enflow.model.checkpoint import load
from enflow.model.en_flows import MOLECULES_BY_SIZE, import_en_flows
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.batched_solver import InitialState, solve_batched
from enflow.model.flow.ode.tolerances import Ending
from enflow.model.flow.states import Latent
from enflow.model.flow.velocity import Velocity

WEIGHTS = Path(__file__).parent.parent / "weights" / "qm9"
LADDER = [float(f"{10 ** (-exponent / 8):.2g}") for exponent in range(16, 57)]
"""Tolerances from 1e-2 to 1e-7, eight per factor of ten."""
TIGHT = 1e-7
WITHIN = 0.01
REQUIRED, GOAL = {"torchdiffeq": 2.0, "original": 8.0}, {"torchdiffeq": 3.5, "original": 12.0}

Way = Callable[[float], list[Tensor]]
"""A function from a tolerance to the positions of every molecule at t = 1, (N, 3) each."""


def latents(flow: MoleculeFlow, rows: int) -> list[Latent]:
    """Draw the noise of molecules with the sizes of QM9."""
    sizes, counts = np.array(list(MOLECULES_BY_SIZE)), np.array(list(MOLECULES_BY_SIZE.values()))
    drawn = np.random.default_rng(0).choice(sizes, rows, p=counts / counts.sum())
    like = flow.n_atoms.log_probs.new_zeros(0, dtype=flow.dtype)
    return [Latent(*(part.to(like) for part in flow.draw_latent(int(n), 0, i))) for i, n in enumerate(drawn)]


def enflow(velocity: Velocity, points: list[Latent]) -> Way:
    """Return Enflow's sampler: Adams' method with the same error at all times, a step size per molecule, batches."""

    def run(tolerance: float) -> list[Tensor]:
        starts = [InitialState(x, h, 0.0, 1.0, tolerance, tolerance, Ending(1.0)) for x, h in points]
        arrivals = {arrival.index: arrival.x for arrival in solve_batched(velocity, starts)}
        return [arrivals[index] for index in range(len(points))]

    return run


def padded(velocity: Velocity, points: list[Latent]) -> Way:
    """Return torchdiffeq's sampler: one padded batch with one step size."""
    x, h = (pad_sequence([point[field] for point in points], batch_first=True) for field in (0, 1))
    mask = torch.arange(x.shape[1]) < torch.tensor([len(point.x) for point in points])[:, None]

    def run(tolerance: float) -> list[Tensor]:
        times = torch.tensor([0.0, 1.0], dtype=x.dtype)
        path = odeint(
            lambda t, y: velocity(t.expand(len(x)), *y, mask),
            (x, h),
            times,
            rtol=tolerance,
            atol=tolerance,
            method="dopri5",
        )
        return [row[real] for row, real in zip(path[0][-1], mask, strict=True)]

    return run


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the RMS distance over all atoms of all molecules, angstrom."""
    squares = [(a - b).square().sum(-1) for a, b in zip(found, expected, strict=True)]
    return float(torch.cat(squares).mean().sqrt())


def loosest(error: Callable[[float], float], within: float, ladder: Sequence[float] = LADDER) -> tuple[float, float]:
    """Find by bisection the loosest tolerance whose error is small enough; return it and its error."""
    low, high, errors = 0, len(ladder), {}
    while low < high:
        middle = (low + high) // 2
        errors[middle] = error(ladder[middle])
        low, high = (low, middle) if errors[middle] <= within else (middle + 1, high)
    if low == len(ladder):
        raise SystemExit(f"no tolerance down to {ladder[-1]:g} is within {within}: the last has {errors[low - 1]:.3g}")
    return ladder[low], errors[low]


@torch.no_grad()
def measure(flow: MoleculeFlow, rows: int, rounds: int, original: bool) -> dict[str, dict[str, Any]]:
    """Return tolerance, error, molecules/s and slowdown against Enflow for each sampler."""
    points = latents(flow, rows)
    velocity = flow.velocity
    tight = enflow(flow.in_double().velocity, [Latent(x.double(), h.double()) for x, h in points])(TIGHT)
    ways = {"enflow": enflow(velocity, points), "torchdiffeq": padded(flow.dynamics, points)}
    chosen = {name: loosest(lambda tol, run=run: distance(run(tol), tight), WITHIN) for name, run in ways.items()}
    if original:
        way, tolerance = padded(Original(flow.dynamics), points), chosen["torchdiffeq"][0]
        ways["original"], chosen["original"] = way, (tolerance, distance(way(tolerance), tight))
    seconds = by_turns({name: lambda n=name: ways[n](chosen[n][0]) for name in ways}, rounds)
    return {
        name: {
            "tolerance": chosen[name][0],
            "distance": round(chosen[name][1], 5),
            "molecules_per_second": round(rows / float(np.median(seconds[name])), 2),
            "enflow_is_faster": ratio(seconds[name], seconds["enflow"]),
        }
        for name in ways
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="directory with the checkpoint of E-NF's authors")
    parser.add_argument("--quick", action="store_true", help="fewer molecules and rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    given = arguments.reference is not None
    flow = import_en_flows(arguments.reference) if given else load(WEIGHTS)
    compile_flow(flow)
    rows, rounds = (12, 1) if arguments.quick else (50, 2)
    ways = measure(flow.requires_grad_(False), rows, rounds, original=given)
    weights = "E-NF's released weights" if given else "the bundled weights"
    checks = {
        f"{name}_{least:g}": ways[name]["enflow_is_faster"]["median"] >= least
        for limits in (REQUIRED, GOAL)
        for name, least in limits.items()
        if name in ways
    }
    write_results(
        "sampling_reference" if given else "sampling",
        f"Sampling {rows} molecules within {WITHIN} angstrom RMS: {weights}, float32, one thread",
        ["", "tolerance", "distance, angstrom", "molecules/s", "Enflow is faster", "quartiles"],
        [[name, *_cells(way)] for name, way in ways.items()],
        {"rows": rows, "weights": weights, "ways": ways, "checks": checks},
    )


def _cells(way: dict[str, Any]) -> list[str]:
    times = way["enflow_is_faster"]
    spread = f"{times['low']:.2f} to {times['high']:.2f}"
    return [
        f"{way['tolerance']:g}",
        f"{way['distance']:.4f}",
        f"{way['molecules_per_second']:.2f}",
        f"{times['median']:.2f}",
        spread,
    ]


if __name__ == "__main__":
    main()
