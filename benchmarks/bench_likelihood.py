"""Seconds per likelihood at equal error: a path and a quadrature against the augmented solve that others do.

    python -m benchmarks.bench_likelihood [--reference DIR [--qm9]] [--sizes 9 18 25] [--keep-exact]

DIR holds the checkpoint of E-NF's authors; without it the bundled weights serve. The molecules are samples of the
model, or with --qm9 one of QM9's test set, which `likelihood_exact.npz` above DIR holds. Two things differ: how many
traces it takes, and what one costs. So the augmented solve runs twice: with the traces that others have, a
Jacobian-vector product per dimension by torch's jvp under vmap (which is several times as fast as their loops over
backward passes), and with Enflow's. Each side gets the loosest tolerance of a ladder at which all integrals are within
0.1 nats of a tight solution; float32, one thread, processor time. With --keep-exact the exact bounds beside the default
estimates are those of the last result.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench_sampling import WEIGHTS, loosest
from benchmarks.measure import RESULTS, by_turns, ratio, write_results
from enflow.model.checkpoint import load
from enflow.model.chem.molecule import Molecule
from enflow.model.en_flows import import_en_flows
from enflow.model.flow.estimator_options import Divergence, path_tolerance
from enflow.model.flow.likelihood import DrawState, Terms, complete_draw, quadrature_tolerance
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.batched_solver import InitialState, solve_batched
from enflow.model.flow.ode.step_control import working_dtype
from enflow.model.flow.ode.torchdiffeq_solver import AugmentedOptions, solve
from enflow.model.flow.velocity import Velocity
from enflow.service.engine.core import Engine
from enflow.service.protocol.events import Scored
from enflow.service.protocol.requests import EngineLikelihoodRequest, Structure
from tests.stubs import run

WITHIN = 0.1
LADDER = [float(f"{10 ** (-exponent / 4):.2g}") for exponent in range(8, 27)]
"""From 1e-2 to 3e-7, four to a factor of ten."""
REQUIRED, GOAL = 5.0, 10.0
PER_SIZE = 3
"""Samples of the model of each size that are estimated; the exact bound of the first is measured too."""

Way = Callable[[float], Tensor]
"""A tolerance -> the integral of every molecule's divergence, (B,) nats."""


def quadrature(flow: MoleculeFlow, x: Tensor, h: Tensor) -> Way:
    """Enflow: each path alone, then the exact divergence at the nodes of a quadrature."""

    double = flow.in_double()

    def run(tolerance: float) -> Tensor:
        tight, within = path_tolerance(tolerance, exact=True), quadrature_tolerance(tolerance)
        dtype = working_dtype(tight, x.dtype)
        starts = [InitialState(*row, 1.0, 0.0, tight, tight) for row in zip(x.to(dtype), h.to(dtype), strict=True)]
        found = torch.zeros(len(x), dtype=torch.float64)
        for end in solve_batched((flow if dtype == x.dtype else double).velocity, starts, record=True):
            state = DrawState(Terms(0.0, 0.0), None, within, pieces=end.path)
            state.finish_path(0.0, end.x, end.h, end.status)
            complete_draw(state, flow.velocity, x.dtype)
            found[end.index] = state.result(end.nfe).divergence
        return found

    return run


def estimates(flow: MoleculeFlow, sizes: Sequence[int], known: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return processor seconds, errors and draws of default estimates of each size, and of one exact bound.

    The seconds of the service's engine for the same estimates are `served`.

    Args:
        flow: the model.
        sizes: numbers of atoms.
        known: exact bounds that are not computed again, by the number of atoms.
    """
    found, engine = [], Engine(flow)
    for n_atoms in sizes:
        molecules = flow.sample([n_atoms] * PER_SIZE, seed=2, rtol=1e-4, atol=1e-4, refinements=0)
        estimated = [scored(flow, molecule, "hutchinson") for molecule in molecules]
        exact = known.get(n_atoms) or scored(flow, molecules[0], "exact")
        served = [served_seconds(engine, molecule) for molecule in molecules]
        found.append({"n_atoms": n_atoms, "estimated": estimated, "served": served, "exact": exact})
    return found


def scored(flow: MoleculeFlow, molecule: Molecule, divergence: Divergence) -> dict[str, float | None]:
    """Return the processor seconds, the error and the draws of one score."""
    started = time.process_time()
    (found,) = flow.log_prob([molecule], divergence=divergence)
    return {"s": time.process_time() - started, "std_error": found.std_error, "draws": found.draws}


def served_seconds(engine: Engine, molecule: Molecule) -> float:
    """Return the processor seconds of the service's engine for one default score."""
    started = time.process_time()
    structure = Structure(molecule.atomic_numbers, molecule.positions)
    events = list(run(engine, EngineLikelihoodRequest(id="one", molecules=(structure,))))
    assert isinstance(events[0], Scored), "the molecule of a model can be scored"
    return time.process_time() - started


ESTIMATE_HEADS = [
    "atoms",
    "estimate, s",
    "`std_error`, nats",
    "draws",
    "in the engine, s",
    "exact, s",
    "`std_error`, nats",
    "draws",
]


def estimate_cells(one: dict[str, Any]) -> list[str]:
    """Return the row of one size: the scores of the estimated molecules, and the exact one."""
    estimated, exact = one["estimated"], one["exact"]
    return [
        f"{one['n_atoms']}",
        ", ".join(f"{each['s']:.1f}" for each in estimated),
        ", ".join(f"{each['std_error']:.1f}" for each in estimated),
        ", ".join(f"{each['draws']}" for each in estimated),
        ", ".join(f"{seconds:.1f}" for seconds in one["served"]),
        f"{exact['s']:.1f}",
        f"{exact['std_error']:.1f}",
        f"{exact['draws']}",
    ]


def section(molecules: list[dict[str, Any]]) -> str:
    """Return the table of default estimates in Markdown."""
    rows = [ESTIMATE_HEADS, ["---"] * len(ESTIMATE_HEADS), *map(estimate_cells, molecules)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def last_bounds() -> dict[int, dict[str, Any]]:
    """Return the exact bounds of the last result by the number of atoms."""
    molecules = json.loads((RESULTS / "likelihood_estimate.json").read_text())["molecules"]
    return {one["n_atoms"]: one["exact"] for one in molecules}


def publish_estimates(flow: MoleculeFlow, sizes: Sequence[int], known: dict[int, dict[str, Any]]) -> None:
    """Measure and write the default estimates of each size."""
    molecules = estimates(flow, sizes, known)
    share = max(np.median([each["s"] for each in one["estimated"]]) / one["exact"]["s"] for one in molecules)
    write_results(
        "likelihood_estimate",
        f"{PER_SIZE} default estimates a size (target error 2 nats), one exact bound: bundled weights, processor time",
        ESTIMATE_HEADS,
        [estimate_cells(one) for one in molecules],
        {
            "molecules": molecules,
            "compiled": flow.compiled is not None,
            "largest_share_of_exact": float(share),
            "checks": {"at_most_a_fifth_of_exact": bool(share <= 0.2)},
        },
    )


def augmented(velocity: Velocity, x: Tensor, h: Tensor) -> Way:
    """The others: the divergence as one more state of the ODE, at every stage of every step."""
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    return lambda tolerance: solve(velocity, x, h, mask, (1.0, 0.0), None, AugmentedOptions(tolerance)).ladj.double()


def sampled(flow: MoleculeFlow, n_atoms: int, rows: int) -> tuple[Tensor, Tensor]:
    """Molecules of the model, in flow space."""
    molecules = flow.double().sample([n_atoms] * rows, seed=1, rtol=1e-4, atol=1e-4, refinements=0)
    lifted = flow.dequantize(molecules, 1, range(rows))
    return lifted.x, lifted.h


def known(directory: Path, n_atoms: int, rows: int) -> tuple[Tensor, Tensor]:
    """Molecules of QM9's test set in E-NF's flow space."""
    given = np.load(directory / "likelihood_exact.npz")
    at = np.flatnonzero(given["num_atoms"] == n_atoms)[:rows]
    y = torch.from_numpy(given["ode_input_f64"][at, :n_atoms])
    return y[..., :3], y[..., 3:]


@torch.no_grad()
def measure(flow: MoleculeFlow, x: Tensor, h: Tensor, rounds: int) -> dict[str, dict[str, Any]]:
    """For each way: tolerance, error, seconds per molecule and how many times slower than Enflow it is."""
    rows = len(x)
    expected = quadrature(flow.double(), x, h)(1e-5)
    flow.float()
    single = (x.float(), h.float())
    without = partial(flow.velocity)  # a plain function, which knows no trace of its own
    ways = {"enflow": quadrature(flow, *single), "augmented solve": augmented(without, *single)}
    chosen = {
        name: loosest(lambda tol, run=run: float((run(tol) - expected).abs().max()), WITHIN, LADDER)
        for name, run in ways.items()
    }
    ways["the same, Enflow's traces"] = augmented(flow.velocity, *single)
    chosen["the same, Enflow's traces"] = chosen["augmented solve"]
    seconds = by_turns({name: lambda n=name: ways[n](chosen[n][0]) for name in ways}, rounds)
    return {
        name: {
            "tolerance": chosen[name][0],
            "error": round(chosen[name][1], 4),
            "seconds_per_molecule": round(float(np.median(seconds[name])) / rows, 3),
            "enflow_is_faster": ratio(seconds[name], seconds["enflow"]),
        }
        for name in ways
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="directory with the checkpoint of E-NF's authors")
    parser.add_argument("--qm9", action="store_true", help="a molecule of 12 atoms of QM9 (with --reference)")
    parser.add_argument("--sizes", type=int, nargs="+", help="atoms of the molecules that are estimated: 9 18 25")
    parser.add_argument("--keep-exact", action="store_true", help="take the exact bounds from the last result")
    parser.add_argument("--quick", action="store_true", help="smaller molecules, fewer rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    given = arguments.reference is not None
    flow = (import_en_flows(arguments.reference) if given else load(WEIGHTS)).requires_grad_(False)
    small = (5, 2) if arguments.quick else (7, 3)
    if not given:
        sizes = arguments.sizes or ((5, 7) if arguments.quick else (9, 18, 25))
        publish_estimates(flow, sizes, last_bounds() if arguments.keep_exact else {})
    x, h = known(arguments.reference.parent, 12, 1) if arguments.qm9 else sampled(flow, *small)
    rows, n_atoms = x.shape[:2]
    found = {"exact": measure(flow, x, h, 1)}
    weights = "E-NF's released weights" if given else "the bundled weights"
    faster = found["exact"]["augmented solve"]["enflow_is_faster"]["median"]
    name = "likelihood_reference" if given else "likelihood"
    write_results(
        f"{name}_qm9" if arguments.qm9 else name,
        f"Likelihood of {rows} x {n_atoms} atoms within {WITHIN} nats: {weights}, float32, one thread",
        ["", "tolerance", "largest error, nats", "s / molecule", "Enflow is faster", "quartiles"],
        [[f"{kind}: {name}", *_cells(way)] for kind, ways in found.items() for name, way in ways.items()],
        {
            "rows": rows,
            "n_atoms": n_atoms,
            "weights": weights,
            "ways": found,
            "checks": {"exact_at_least_5": faster >= REQUIRED, "goal_10": faster >= GOAL},
        },
    )


def _cells(way: dict[str, Any]) -> list[str]:
    times = way["enflow_is_faster"]
    spread = f"{times['low']:.2f} to {times['high']:.2f}"
    return [
        f"{way['tolerance']:g}",
        f"{way['error']:.4f}",
        f"{way['seconds_per_molecule']:.3f}",
        f"{times['median']:.2f}",
        spread,
    ]


if __name__ == "__main__":
    main()
