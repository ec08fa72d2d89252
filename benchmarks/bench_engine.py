"""What a molecule's step costs as slots and atoms grow, and what the engine adds to the network.

`python -m benchmarks.bench_engine`; processor time of one thread, bundled weights. The charts go to
results/engine.html.
"""

import math
import sys
import time

import torch
from torch import nn

from benchmarks.measure import RESULTS, write_results
from enflow.model.checkpoint import load
from enflow.model.training.svg_charts import Series, chart
from enflow.service.engine.core import Engine
from enflow.service.protocol.requests import EngineSampleRequest
from enflow.service.settings import BUNDLED_WEIGHTS

SLOTS = (1, 4, 16, 64, 256)
ATOMS = (3, 9, 18, 29)
ATTEMPTS = 3


class Stopwatch:
    """Seconds spent inside a module."""

    def __init__(self, module: nn.Module) -> None:
        self.seconds = self._begin = 0.0
        module.register_forward_pre_hook(self._start)
        module.register_forward_hook(self._stop)

    def _start(self, *_: object) -> None:
        self._begin = time.process_time()

    def _stop(self, *_: object) -> None:
        self.seconds += time.process_time() - self._begin


def step_cost(slots: int, n_atoms: int) -> tuple[float, float]:
    """Milliseconds of an attempted step per molecule, and the share of it outside the network: best of some steps."""
    flow = load(BUNDLED_WEIGHTS)
    engine = Engine(flow, pairs=slots * n_atoms**2, slots=slots, sizes=(n_atoms,))
    engine.add(EngineSampleRequest(id="bench", seed=0, n_atoms=(n_atoms,) * slots, rtol=1e-5, atol=1e-5))
    engine.step()  # draws the noise and takes the first derivatives
    watch, found = Stopwatch(flow.dynamics), []
    for _ in range(ATTEMPTS):
        inside, begin = watch.seconds, time.process_time()
        engine.step()
        total = time.process_time() - begin
        found.append((1e3 * total / slots, 1 - (watch.seconds - inside) / total))
    return min(found)


def draw(measured: dict[tuple[int, int], tuple[float, float]]) -> None:
    """The cost of a molecule's step over the slots, and over the atoms, one above the other."""
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
