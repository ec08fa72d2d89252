"""One molecule in different company: how far its coordinates move between batches of other sizes.

    python -m benchmarks.company --minutes 10

Every request for a dozen molecules, refined as the card says, is computed twice: all at once, and one by one or in a
few parts, some of them in the background as jobs are. Float32 rounds differently in batches of other sizes. Where the
error of a step is close to the tolerance, the step may be accepted in one batch and rejected in the other: "other
steps".
"""

import argparse
import itertools
import random
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.card import read_card
from enflow.model.config import TOLERANCES, FlowConfig
from enflow.service.engine.core import Engine
from enflow.service.engine.loading import from_weights
from enflow.service.protocol.events import Sampled
from enflow.service.protocol.requests import EngineSampleRequest
from enflow.service.settings import BUNDLED_WEIGHTS

MOLECULES, SIZES, PROMISED = 12, (5, 16), 1e-3
"""Molecules of a request, their sizes in atoms, and the difference in angstrom above which molecules are counted."""

NAMES = ("draft", "standard")

COLUMNS = ("molecules", "median, angstrom", "99 %", "largest", "above 0.001", "other steps", "other types")


class Moved(NamedTuple):
    """The largest difference of a coordinate in angstrom; whether the elements and the numbers of steps are equal."""

    angstrom: float
    same_types: bool
    same_steps: bool


def compared(engine: Engine, seed: int, tolerance: float, refinements: int) -> list[Moved]:
    """Return the differences between the molecules of one request, computed at once and in parts."""
    chance = random.Random(seed)
    sizes = [chance.randint(*SIZES) for _ in range(MOLECULES)]
    ends = range(MOLECULES + 1) if seed % 2 else (0, 2, 7, MOLECULES)

    def request(start: int, stop: int, name: str, *, background: bool) -> EngineSampleRequest:
        atoms = tuple(sizes[start:stop])
        return EngineSampleRequest(
            id=name,
            seed=seed,
            n_atoms=atoms,
            first_index=start,
            rtol=tolerance,
            atol=tolerance,
            refinements=refinements,
            background=background,
        )

    whole = molecules(engine, [request(0, MOLECULES, "whole", background=False)])
    parts = [request(start, stop, f"{start}", background=start % 3 == 2) for start, stop in itertools.pairwise(ends)]
    divided = molecules(engine, parts)
    return [difference(whole[index], divided[index]) for index in whole.keys() & divided.keys()]


def molecules(engine: Engine, requests: Sequence[EngineSampleRequest]) -> dict[int, Sampled]:
    """Return the molecules of some requests, which are computed together, by their index."""
    for request in requests:
        engine.add(request)
    found = {}
    while not engine.idle:
        found |= {event.index: event for event in engine.step() if isinstance(event, Sampled)}
    return found


def difference(first: Sampled, second: Sampled) -> Moved:
    """Return how far a molecule moved."""
    same_types = np.array_equal(first.atomic_numbers, second.atomic_numbers)
    return Moved(float(np.abs(first.positions - second.positions).max()), same_types, first.nfe == second.nfe)


def cells(moved: Sequence[Moved]) -> list[str]:
    """Return the row of a table."""
    distances = np.array([each.angstrom for each in moved])
    quantiles = [f"{value:.0e}" for value in np.quantile(distances, [0.5, 0.99, 1.0])]
    counts = [sum(distances > PROMISED), sum(not each.same_steps for each in moved)]
    return [str(len(moved)), *quantiles, *map(str, counts), str(sum(not each.same_types for each in moved))]


def measured(seconds: float) -> dict[str, list[Moved]]:
    """Compare requests for some time; return the differences by tolerance."""
    torch.set_num_threads(1)
    engine, found = from_weights(str(BUNDLED_WEIGHTS), "cpu"), {name: list[Moved]() for name in NAMES}
    config, end = read_card(BUNDLED_WEIGHTS).config, time.monotonic() + seconds
    assert isinstance(config, FlowConfig), "the bundled weights are of molecules"
    for seed in itertools.count():
        for name in NAMES:
            found[name] += compared(engine, seed, TOLERANCES[name], config.refinements)
        if time.monotonic() > end:
            break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    found = measured(60 * parser.parse_args().minutes)
    columns = ["tolerance", *COLUMNS]
    rows = [[name, *cells(moved)] for name, moved in found.items()]
    facts = {row[0]: dict(zip(COLUMNS, row[1:], strict=True)) for row in rows}
    write_results("company", "One molecule in different company", columns, rows, {"moved": facts})
    lines = [columns, ["---"] * len(columns), *rows]
    write_section(DOCS / "science.md", "company", "\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
