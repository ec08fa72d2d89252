"""The paths from noise to the atoms around a fragment, by the place of the noise.

    python -m benchmarks.fragment_paths [MOLECULES]

Default: 3,000 test molecules, each with a random part. The noise is coupled to the atoms as in training. It lies around
the mean position of the fragment, or in front of its open bonds (`enflow.model.flow.fragment_prior`). In the last row
the whole molecule is generated, as by weights/qm9.

Needs the reference data: the folder of the environment variable ENFLOW_SHARED, by default `shared` beside the checkout.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_bonds import held_out
from benchmarks.fragments import SIZES, heavy, one_part
from benchmarks.measure import DOCS, write_results, write_section
from enflow.model.chem.elements import QM9
from enflow.model.flow.completion import Completion
from enflow.model.flow.coupling import transport, transport_around
from enflow.model.flow.fragment_prior import noise_around

SCALE, SIGMA = 0.25, 0.05
"""The corner and the noise of the types in the bundled models."""


def features(completion: Completion, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the features of all atoms, the given ones first, with the noise of the dequantizer."""
    corners = SCALE * np.eye(len(QM9.atomic_numbers))
    types = np.searchsorted(QM9.atomic_numbers, completion.ordered.atomic_numbers)
    found: NDArray[np.float64] = corners[types] + SIGMA * rng.standard_normal((len(types), len(corners)))
    return found


def around(completion: Completion, rng: np.random.Generator, in_front: bool) -> float:
    """Return the mean squared path of the atoms that are not given, square angstrom."""
    molecule, m = completion.ordered, len(completion.given)
    x, h = molecule.positions - molecule.positions[:m].mean(0), features(completion, rng)
    noise = rng.standard_normal((len(x) - m + 1, 3))
    x0 = noise_around(noise, molecule.atomic_numbers[:m], x[:m]) if in_front else noise[:-1]
    found, _ = transport_around(x0, rng.standard_normal(h[m:].shape), x[m:], h[m:], x[:m])
    return float(np.square(found - x[m:]).sum(-1).mean())


def of_all_atoms(completion: Completion, rng: np.random.Generator) -> float:
    """Return the mean squared path of all atoms of the molecule, square angstrom."""
    x, h = completion.ordered.centred().positions, features(completion, rng)
    noise = rng.standard_normal(x.shape)
    found, _ = transport((noise - noise.mean(0))[None], rng.standard_normal(h.shape)[None], x[None], h[None])
    return float(np.square(found[0] - x).sum(-1).mean())


WAYS: dict[str, Callable[[Completion, np.random.Generator], float]] = {
    "around the mean of the fragment": lambda one, rng: around(one, rng, in_front=False),
    "in front of the open bonds": lambda one, rng: around(one, rng, in_front=True),
    "the whole molecule": of_all_atoms,
}


def main(count: int) -> None:
    rng = np.random.default_rng(0)
    completions = [each for molecule in held_out(count) if (each := one_part(molecule, rng))]
    sizes, rows, found = np.array([heavy(each) for each in completions]), [], {}
    for name, path in WAYS.items():
        squares = np.array([path(each, rng) for each in completions])
        groups = [squares, *(squares[(low <= sizes) & (sizes <= high)] for low, high in SIZES.values())]
        found[name] = [round(float(group.mean()), 2) for group in groups]
        rows.append([name, *(f"{value:.1f}" for value in found[name])])
    columns = ["noise", "all", *SIZES]
    write_results("fragment_paths", "Mean squared paths, square angstrom", columns, rows, {"found": found})
    lines = [columns, ["---"] * len(columns), *rows]
    write_section(DOCS / "science.md", "fragment paths", "\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 3000)
