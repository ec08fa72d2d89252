"""The figures of own samples beside data, where they are known by counting."""

import numpy as np
import pytest

from benchmarks.own_samples import Scored, auc_within_sizes, improbable
from enflow.model.chem.molecule import Molecule


def scored(sizes: list[int], nll: list[float]) -> Scored:
    """Return chains of hydrogen atoms of these sizes with these scores."""
    chains = [Molecule([1] * n, [[float(i), 0.0, 0.0] for i in range(n)]) for n in sizes]
    return Scored(chains, np.array(nll), 1.0)


def test_pairs_of_other_sizes_do_not_count() -> None:
    found = scored([2, 2, 2, 3, 3], [1.0, 2.0, 3.0, 100.0, 50.0])
    stable = np.array([True, False, True, True, False])
    # Of two atoms 1 < 2 is right and 3 < 2 is wrong; of three atoms 100 < 50 is wrong.
    assert auc_within_sizes(found, stable) == pytest.approx(1 / 3)
    assert auc_within_sizes(scored([2, 2], [1.0, 1.0]), np.array([True, False])) == pytest.approx(0.5)
    assert auc_within_sizes(scored([2, 3], [1.0, 2.0]), np.array([True, False])) is None


def test_improbable_molecules_are_counted_among_data_of_their_size() -> None:
    data = scored([2] * 101 + [3] * 5, [float(i) for i in range(101)] + [0.0] * 5)
    # The 95 % quantile of 0, 1, ..., 100 is 95. Of three atoms the data are too few.
    assert improbable(scored([2, 2, 2, 2, 3], [94.0, 95.0, 96.0, 1e6, 1e6]), data) == pytest.approx(0.5)
