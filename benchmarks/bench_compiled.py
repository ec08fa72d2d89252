"""The compiled velocity against the eager one: an evaluation, a molecule alone, a command, and the start of an engine.

    python -m benchmarks.bench_compiled

Bundled weights, float32, one thread, processor time, by turns. `enflow compile` makes the code first, where it is
missing. A molecule alone is one request of one molecule to an idle engine, with a size drawn from p(N). The last column
is the time of the matrix products of an evaluation alone, each as one call of `torch.mm`.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.matrix_products import matrix_products
from benchmarks.measure import by_turns, ratio, write_results
from enflow.model.checkpoint import compile_weights, load
from enflow.model.flow.compiled_velocity import CACHE
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.service.engine.core import Engine
from enflow.service.protocol.requests import EngineSampleRequest
from enflow.service.settings import BUNDLED_WEIGHTS
from tests.stubs import run

ATOMS = 18
ROWS = (1, 4, 12, 64)


def batch(flow: MoleculeFlow, rows: int) -> tuple[Tensor, ...]:
    """Return arguments of the velocity for molecules of 18 atoms."""
    t, x, h, mask = (part[:1].repeat(rows, *[1] * (part.ndim - 1)) for part in flow.example())
    return t, x[:, :ATOMS], h[:, :ATOMS], mask[:, :ATOMS]


def evaluation(flow: MoleculeFlow, rows: int) -> None:
    """Evaluate the velocity of molecules of 18 atoms, 64 rows or more in all."""
    arguments = batch(flow, rows)
    with torch.inference_mode():
        for _ in range(-(-64 // rows)):
            flow.velocity(*arguments)


def products(flow: MoleculeFlow, rows: int) -> Callable[[], None]:
    """Return a function that computes nothing but the matrix products of `evaluation`."""
    repeat = matrix_products(partial(flow.dynamics, *batch(flow, rows)))

    def run() -> None:
        for _ in range(-(-64 // rows)):
            repeat()

    return run


def alone(engine: Engine, names: "count[int]") -> None:
    """Answer one request of one molecule."""
    seed = next(names)
    list(run(engine, EngineSampleRequest(id=str(seed), seed=seed, n_atoms=(None,), rtol=1e-3, atol=1e-3)))


def child(*command: str, cache: str) -> None:
    """Run a command in a process of its own, which uses the compiled code of a folder."""
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env={**os.environ, CACHE: cache})


def child_seconds(command: tuple[str, ...], caches: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Return the processor seconds of a command in each round, by turns; its processes count too."""
    seconds: dict[str, list[float]] = {name: [] for name in caches}
    for _ in range(rounds):
        for name, cache in caches.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            child(*command, cache=cache)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return seconds


def commands(used: Path) -> dict[str, dict[str, list[float]]]:
    """Return the processor seconds of a command and of a start, without compiled code and with that of a folder."""
    with tempfile.TemporaryDirectory() as nothing:
        caches = {"eager": nothing, "compiled": str(used)}
        sample = ("-m", "enflow.service", "sample", "-n", "200", "--out", str(Path(nothing) / "molecules.sdf"))
        loading = "from enflow.service.engine.loading import from_weights"
        start = ("-c", f"{loading}; from_weights({str(BUNDLED_WEIGHTS)!r}, 'cpu', 1).check()")
        return {
            "enflow sample -n 200, s": child_seconds(sample, caches, rounds=2),
            "start of an engine, s": child_seconds(start, caches, rounds=3),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no commands")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    used = compile_weights(BUNDLED_WEIGHTS).parent
    compiled, eager = load(BUNDLED_WEIGHTS), load(BUNDLED_WEIGHTS)
    eager.compiled = None
    flows = {"eager": eager, "compiled": compiled}
    measured: dict[str, dict[str, list[float]]] = {}
    for rows in ROWS:
        turns: dict[str, Callable[[], object]] = {name: partial(evaluation, flow, rows) for name, flow in flows.items()}
        found = by_turns(turns | {"products": products(eager, rows)}, 3 if quick else 9)
        per_molecule = 1e3 / (-(-64 // rows) * rows)
        measured[f"evaluation, {rows} of {ATOMS} atoms, ms"] = {
            k: (v * per_molecule).tolist() for k, v in found.items()
        }
    engines = {name: (Engine(flow), count()) for name, flow in flows.items()}
    found = by_turns({name: partial(alone, *engine) for name, engine in engines.items()}, 6 if quick else 32)
    measured["a molecule alone, ms"] = {name: (1e3 * value).tolist() for name, value in found.items()}
    if not quick:
        measured |= commands(used)
    medians = {
        what: {name: statistics.median(values) for name, values in both.items()} for what, both in measured.items()
    }
    gains = {what: ratio(*(np.array(both[name]) for name in flows)) for what, both in measured.items()}
    write_results(
        "compiled",
        "The compiled velocity against the eager one: medians of processor time",
        ["", "eager", "compiled", "times as fast", "quartiles", "products alone"],
        [
            [
                what,
                f"{one['eager']:.3g}",
                f"{one['compiled']:.3g}",
                f"{gain['median']:.2f}",
                f"{gain['low']:.2f} to {gain['high']:.2f}",
                f"{one['products']:.3g}" if "products" in one else "",
            ]
            for (what, one), gain in zip(medians.items(), gains.values(), strict=True)
        ],
        {"medians": medians, "times_as_fast": gains},
    )


if __name__ == "__main__":
    main()
