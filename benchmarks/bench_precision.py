"""How far served likelihoods are off, molecule by molecule: the engine's against the augmented solve in float64.

    python -m benchmarks.bench_precision [--sizes 7 8 9 11]

Molecules of QM9's test split (ENFLOW_DATA names the folder of qm9.npz; the smallest has 7 atoms), the first of each
size, with the bundled weights and the dequantizer's draw of (seed 0, place). What is compared is log p(z) + the
integral of the divergence, nats, which is all that is solved for; the traces of both sides are exact. The promise is
0.5 at "standard" and 0.02 at "precise".
"""

import argparse

import numpy as np
import torch

from benchmarks.measure import write_results
from enflow.model.checkpoint import load
from enflow.model.chem.molecule import Molecule
from enflow.model.config import TOLERANCES
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.torchdiffeq_solver import AugmentedOptions, solve
from enflow.model.training.data.qm9 import data_file, load_qm9
from enflow.service.engine.core import Engine
from enflow.service.protocol.events import Scored
from enflow.service.protocol.requests import EngineLikelihoodRequest, EstimatorOptions, Structure
from enflow.service.settings import BUNDLED_WEIGHTS
from tests.stubs import run

SIZES = [7, 8, 9, 11]
PROMISED = {"standard": 0.5, "precise": 0.02}
TIGHT = 1e-8


def held_out(sizes: list[int]) -> list[Structure]:
    """The first molecule of each size in QM9's test split."""
    data = load_qm9(data_file(), "test")
    numbers = np.array([1, 6, 7, 8, 9])
    found = []
    for n in sizes:
        begin = data.offsets[np.flatnonzero(data.n_atoms == n)[0]]
        at = slice(begin, begin + n)
        found.append(Structure(numbers[data.atom_types[at]], data.positions[at].astype(np.float64)))
    return found


def augmented(double: MoleculeFlow, x: torch.Tensor, h: torch.Tensor) -> float:
    """log p(z) + the integral of the divergence, as one ODE."""
    mask = torch.ones(1, len(x), dtype=torch.bool)
    end = solve(double.velocity, x[None].double(), h[None].double(), mask, (1.0, 0.0), None, AugmentedOptions(TIGHT))
    return float(double.log_prob_base(end.x, end.h, mask) + end.ladj)


def served(engine: Engine, molecules: list[Structure], tolerance: float) -> list[float]:
    """The same as the engine answers it; the bundled weights have no ActNorm."""
    options = EstimatorOptions("exact", draws=1, rtol=tolerance, atol=tolerance)
    work = EngineLikelihoodRequest(id=f"{tolerance}", molecules=tuple(molecules), seed=0, options=options)
    scored = {event.index: event.parts for event in run(engine, work) if isinstance(event, Scored)}
    return [-(scored[index]["base"] + scored[index]["divergence"]) for index in range(len(molecules))]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--quick", action="store_true", help="the smallest molecule only")
    arguments = parser.parse_args()
    sizes: list[int] = arguments.sizes[:1] if arguments.quick else arguments.sizes
    torch.set_num_threads(1)
    flow = load(BUNDLED_WEIGHTS).requires_grad_(False)
    engine, molecules, double = Engine(flow), held_out(sizes), flow.in_double()
    found = {name: served(engine, molecules, TOLERANCES[name]) for name in PROMISED}
    expected = []
    for molecule in molecules:
        form = flow.canonical_form(Molecule(*molecule))
        lifted = flow.dequantize([form.molecule], 0, [form.key])
        expected.append(augmented(double, lifted.x[0], lifted.h[0]))
    errors = {name: [round(a - b, 4) for a, b in zip(values, expected, strict=True)] for name, values in found.items()}
    rows = [
        [f"{n}", f"{exact:.3f}", *(f"{errors[name][i]:+.4f}" for name in PROMISED)]
        for i, (n, exact) in enumerate(zip(sizes, expected, strict=True))
    ]
    write_results(
        "precision",
        f"Errors of served likelihoods, nats, by the augmented solve at {TIGHT:g} in float64: the bundled weights",
        ["atoms", "log p(z) + divergence", *PROMISED],
        rows,
        {
            "sizes": sizes,
            "errors": errors,
            "checks": {name: max(map(abs, errors[name])) <= most for name, most in PROMISED.items()},
        },
    )


if __name__ == "__main__":
    main()
