"""How far likelihoods are off, by tolerance: a path and a quadrature against the augmented solve at a tight tolerance.

`python -m benchmarks.bench_precision`: molecules that the bundled weights sample, log p(z) + the integral of the
divergence, nats. The divergence is that of one fixed probe, which an augmented solve in float64 can afford; the
quadrature gets the tolerance that it has for exact traces.
"""

import sys

import torch
from torch import Tensor

from benchmarks.measure import tell
from model.checkpoint import load
from model.config import TOLERANCES
from model.flow.ensemble import Start, travel
from model.flow.likelihood import divergence_along, path_tolerance, quadrature_tolerance
from model.flow.molecule_flow import MoleculeFlow
from model.flow.solve import solve
from model.flow.stepper import arithmetic
from service.settings import BUNDLED_WEIGHTS

TIGHT = 1e-9
REQUIRED = {"standard": 0.5, "precise": 0.02}


def augmented(double: MoleculeFlow, x: Tensor, h: Tensor, probe: Tensor) -> Tensor:
    """Of each molecule, solved alone: one step size for all would be decided by the hardest."""
    mask = torch.ones(1, x.shape[1], dtype=torch.bool)
    found = []
    for row in range(len(x)):
        at = slice(row, row + 1)
        end = solve(double.velocity, x[at], h[at], mask, 1.0, 0.0, probe[at], TIGHT, TIGHT)
        found.append(double.log_prob_base(end.x, end.h, mask) + end.ladj)
    return torch.cat(found)


def quadrature(
    flow: MoleculeFlow, double: MoleculeFlow, x: Tensor, h: Tensor, probe: Tensor, tolerance: float
) -> tuple[Tensor, int, int]:
    """The same as the flow and the engine compute it; evaluations along the paths, and nodes."""
    tight, within = path_tolerance(tolerance), quadrature_tolerance(tolerance, exact=True)
    dtype = arithmetic(tight, flow.dtype)
    mover = flow if dtype == flow.dtype else double
    starts = [Start(*row, 1.0, 0.0, tight, tight) for row in zip(x.to(dtype), h.to(dtype), strict=True)]
    found, nfe, nodes = torch.zeros(len(x), dtype=torch.float64), 0, 0
    for one in travel(mover.velocity, starts, record=True):
        noise = probe[one.index : one.index + 1]
        integral = divergence_along(flow.velocity, one.path, noise, within, dtype=flow.dtype)
        found[one.index] = flow.log_prob_base(one.x[None], one.h[None], one.mask)[0] + integral.value[0]
        nfe, nodes = nfe + one.nfe, nodes + int(integral.nodes[0])
    return found, nfe, nodes


@torch.no_grad()
def main(quick: bool) -> None:
    torch.set_num_threads(1)
    flow = load(BUNDLED_WEIGHTS).requires_grad_(False)
    double, sizes = flow.in_double(), [5] * 2 if quick else [9] * 4
    lifted = flow.lift(flow.sample(sizes, seed=5), 5, range(len(sizes)))
    x, h = lifted.x.double(), lifted.h.double()
    probe = torch.cat([flow.draw_probes(n, 5, i, 0, 1) for i, n in enumerate(sizes)])
    expected = augmented(double, x, h, probe)
    rows, facts = [], {}
    for name, tolerance in TOLERANCES.items():
        found, nfe, nodes = quadrature(flow, double, x, h, probe, tolerance)
        off = (found - expected).abs()
        facts[name] = {
            "mean": round(float(off.mean()), 4), "largest": round(float(off.max()), 4),
            "nfe": round(nfe / len(sizes)), "nodes": round(nodes / len(sizes)),
        }  # fmt: skip
        rows.append([name, f"{tolerance:g}", *map(str, facts[name].values())])
    tell(
        "precision",
        f"Error of {len(sizes)} likelihoods of {sizes[0]} atoms, nats, by tolerance: bundled weights",
        ["", "tolerance", "mean error", "largest", "evaluations", "nodes"],
        rows,
        {"errors": facts, "checks": {name: facts[name]["largest"] <= most for name, most in REQUIRED.items()}},
    )


if __name__ == "__main__":
    main("--quick" in sys.argv)
