"""The error of an estimated divergence at equal processor time: new probes at every node against probes that are kept.

    python -m benchmarks.bench_probes [--atoms 18] [--repetitions 40]

One molecule that the bundled weights generate, and one path. A new probe is a finite difference at a random time, as
in the default estimate, by compiled code where there is some (`enflow compile`). A kept probe is a Jacobian-vector
product with the same signs at the 32 nodes of a Gauss-Legendre rule in s, t = 1 - s^2. The error of a mean falls as the
inverse square root of the time that is spent, so the errors are compared as standard deviation times the square root of
the seconds.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.func import jvp

from benchmarks.bench_sampling import WEIGHTS
from benchmarks.measure import write_results
from enflow.model.checkpoint import load
from enflow.model.flow.divergence import rademacher
from enflow.model.flow.estimator_options import PROBE_NODES, EstimatorOptions
from enflow.model.flow.geometry import centre
from enflow.model.flow.likelihood import DrawState, Terms, complete_draw
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.noise import generator
from enflow.model.flow.ode.batched_solver import FinalState
from enflow.model.flow.ode.dense_output import Trajectory
from enflow.model.flow.probes import draw_probes
from enflow.model.flow.velocity import packed

LARGEST_RATIO = 0.3
OPTIONS = EstimatorOptions()


def new_probes(flow: MoleculeFlow, end: FinalState, seed: int) -> float:
    """Return the divergence along a path by the default number of new probes."""
    positions = end.path[0].y0[0, :, :3].double().numpy()
    noise = draw_probes(generator(seed, 0, "probe"), positions, end.h.shape[-1], OPTIONS.probes_per_node)
    state = DrawState(Terms(0.0, 0.0), noise, 0.0, pieces=end.path)
    state.finish_path(0.0, end.x, end.h, end.status)
    complete_draw(state, flow.velocity, flow.dtype)
    return state.result(end.nfe).divergence


def kept_probe(flow: MoleculeFlow, end: FinalState, seed: int) -> float:
    """Return the divergence along a path by one probe with the same signs at all nodes."""
    roots, weights = np.polynomial.legendre.leggauss(PROBE_NODES)
    s = (roots + 1.0) / 2.0
    t = end.x.new_tensor(1.0 - s**2)
    trajectory = Trajectory([(torch.ones(1, dtype=torch.bool), piece) for piece in end.path])
    y = trajectory.at(torch.zeros(PROBE_NODES, dtype=torch.int64), t)
    mask = torch.ones(y.shape[:2], dtype=torch.bool)
    signs = rademacher([generator(seed, 0, "kept")], mask[:1], end.h.shape[-1])
    signs[..., :3] = centre(signs[..., :3], mask[:1])
    signs = signs.to(y).expand_as(y)
    moved = jvp(lambda state: packed(flow.velocity, t, state, mask, 3), (y,), (signs,))[1]
    values = (moved * signs).sum((1, 2)).double().numpy()
    return float(-(values * s * weights).sum())


@torch.no_grad()
def measure(estimate: Callable[[int], float], repetitions: int) -> tuple[float, float, float]:
    """Return the mean and the standard deviation of an estimate, nats, and its processor seconds."""
    estimate(repetitions)
    started = time.process_time()
    values = np.array([estimate(seed) for seed in range(repetitions)])
    return float(values.mean()), float(values.std(ddof=1)), (time.process_time() - started) / repetitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, default=18)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="five atoms")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    flow = load(WEIGHTS).requires_grad_(False)
    n_atoms = 5 if arguments.quick else arguments.atoms
    lifted = flow.dequantize(flow.sample([n_atoms], seed=2, rtol=1e-4, atol=1e-4, refinements=0), 0, [0])
    (point,) = [latent for latent, _, _ in lifted.rows()]
    (end,) = flow.solve([point], 1.0, 0.0, *OPTIONS.path_tolerances, record=True)
    ways = {"new at every node": new_probes, "kept along the path": kept_probe}
    found = {name: measure(partial(way, flow, end), arguments.repetitions) for name, way in ways.items()}
    new, kept = (deviation * seconds**0.5 for _, deviation, seconds in found.values())
    write_results(
        "probes",
        f"An estimated divergence of {n_atoms} atoms by probes of two kinds: the bundled weights, one thread",
        ["probes", "mean, nats", "standard deviation, nats", "s", "nats at 1 s"],
        [
            [name, f"{mean:.1f}", f"{deviation:.2f}", f"{seconds:.3f}", f"{deviation * seconds**0.5:.2f}"]
            for name, (mean, deviation, seconds) in found.items()
        ],
        {
            "n_atoms": n_atoms,
            "repetitions": arguments.repetitions,
            "ways": found,
            "error_at_equal_time": new / kept,
            "checks": {"at_most_0.3": new / kept <= LARGEST_RATIO},
        },
    )


if __name__ == "__main__":
    main()
