"""The cost of a step per molecule over slots and atoms, and the overhead of the engine over the velocity.

`python -m benchmarks.bench_engine` measures the processor time of one thread with the bundled weights and writes the
charts to results/engine.html.
"""

import math
import sys
import time

import torch
from torch import Tensor

from benchmarks.measure import RESULTS, write_results
from enflow.model.checkpoint import load
from enflow.model.flow.velocity import Velocity
from enflow.model.training.svg_charts import Series, chart
from enflow.service.engine.config import EngineConfig
from enflow.service.engine.core import Engine
from enflow.service.protocol.requests import EngineSampleRequest
from enflow.service.settings import BUNDLED_WEIGHTS

SLOTS = (1, 4, 16, 64, 256)
ATOMS = (3, 9, 18, 29)
ATTEMPTS = 3


class Stopwatch:
    """A velocity that adds up its seconds, by compiled code or not."""

    def __init__(self, velocity: Velocity) -> None:
        self.seconds, self._velocity = 0.0, velocity

    def __call__(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        begin = time.process_time()
        slopes = self._velocity(t, x, h, mask)
        self.seconds += time.process_time() - begin
        return slopes


def step_cost(slots: int, n_atoms: int) -> tuple[float, float]:
    """Return the milliseconds per molecule of the fastest step, and its share outside the network."""
    flow = load(BUNDLED_WEIGHTS)
    watch, costs = Stopwatch(flow.velocity), []
    flow.velocity = watch  # type: ignore[assignment, method-assign]
    engine = Engine(flow, EngineConfig(pairs=slots * n_atoms**2, slots=slots, sizes=(n_atoms,)))
    engine.add(EngineSampleRequest(id="bench", seed=0, n_atoms=(n_atoms,) * slots, rtol=1e-5, atol=1e-5))
    engine.step()  # the first step also draws the noise and evaluates the first derivatives
    for _ in range(ATTEMPTS):
        inside, begin = watch.seconds, time.process_time()
        engine.step()
        total = time.process_time() - begin
        costs.append((1e3 * total / slots, 1 - (watch.seconds - inside) / total))
    return min(costs)


def draw(measured: dict[tuple[int, int], tuple[float, float]]) -> None:
    """Write the charts of the cost over the slots and over the atoms."""
    by_slots = Series("18 atoms", [(math.log2(n), ms) for (n, atoms), (ms, _) in measured.items() if atoms == 18])
    by_atoms = Series("64 slots", sorted((atoms, ms) for (n, atoms), (ms, _) in measured.items() if n == 64))
    figures = [
        chart("Cost of a molecule's step over slots, 18 atoms", "slots, power of two", "ms per molecule", [by_slots]),
        chart("Cost of a molecule's step over atoms, 64 slots", "atoms", "ms per molecule", [by_atoms]),
    ]
    style = "figure{max-width:40em;font-family:sans-serif}svg{font-size:11px}.grid{stroke:#ccc;fill:none}"
    page = f"<!doctype html><meta charset=utf-8><title>Cost of a step</title><style>{style}</style>{''.join(figures)}"
    (RESULTS / "engine.html").write_text(page + "\n")


def main(quick: bool) -> None:
    torch.set_num_threads(1)
    slots = SLOTS[:4] if quick else SLOTS
    cases = [(n, 18) for n in slots] + [(64, n) for n in ATOMS if n != 18]
    measured = {case: step_cost(*case) for case in cases}
    rows = [[str(n), str(atoms), f"{ms:.2f}", f"{100 * share:.1f} %"] for (n, atoms), (ms, share) in measured.items()]
    facts = [
        {"slots": n, "atoms": atoms, "ms_per_molecule": round(ms, 3), "outside_network": round(share, 4)}
        for (n, atoms), (ms, share) in measured.items()
    ]
    draw(measured)
    overhead = measured[64, 18][1]
    write_results(
        "engine",
        f"A step of the engine; outside the network {100 * overhead:.1f} % at 64 slots (at most 10 %)",
        ["slots", "atoms", "ms per molecule", "outside the network"],
        rows,
        {"overhead_at_64": round(overhead, 4), "required": 0.1, "steps": facts},
    )


if __name__ == "__main__":
    main("--quick" in sys.argv)
