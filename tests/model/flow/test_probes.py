"""Probes that complement each other: unbiased, with a smaller error where the Jacobian is local and changes slowly."""

import numpy as np
import pytest

from enflow.model.flow.noise import generator
from enflow.model.flow.ode.stratified_rule import StratifiedRule
from enflow.model.flow.probes import draw_probes, separating_codes

N_FEATURES = 5
HYDROGENS = [[-1.16, 1.02, 0.0], [-1.16, -0.51, 0.88], [-1.16, -0.51, -0.88]]
ETHANE = np.array([[-0.76, 0.0, 0.0], [0.76, 0.0, 0.0], *HYDROGENS, *(-np.array(HYDROGENS))])


def springs(x: np.ndarray) -> np.ndarray:
    """Return the Hessian of springs between near atoms, beside features that couple within an atom."""
    n = len(x)
    hessian = np.zeros((n, 3 + N_FEATURES, n, 3 + N_FEATURES))
    for i in range(n):
        hessian[i, 3:, i, 3:] = 0.1 * (1.0 + np.eye(N_FEATURES))
        for j in range(n):
            d = x[i] - x[j]
            if i != j and d @ d < 2.0**2:
                block = np.outer(d, d) / (d @ d)
                hessian[i, :3, i, :3] += block
                hessian[i, :3, j, :3] -= block
    return hessian.reshape(n * (3 + N_FEATURES), -1)


@pytest.mark.parametrize(("per_node", "share"), [(1, 0.9), (3, 0.5)])
def test_estimates_have_the_trace_as_their_mean_and_less_variance_than_independent_signs(
    per_node: int, share: float
) -> None:
    hessian = springs(ETHANE)
    values, variances = [], []
    for index in range(300):
        signs, offsets = draw_probes(generator(3, index, "probe"), ETHANE, N_FEATURES, per_node)
        rule = StratifiedRule.along([0.5, 0.0], offsets.numpy())
        e = signs.flatten(1).double().numpy()
        known = rule.update(np.einsum("mi,ij,mj->m", e, hessian, e).tolist())
        values.append(-known.value)
        variances.append(known.variance)
    found = np.var(values, ddof=1)
    assert abs(np.mean(values) - np.trace(hessian)) < 3 * np.sqrt(found / 300) + 0.01
    assert np.mean(variances) == pytest.approx(found, rel=0.3)
    weights = np.array([rule.update(one).value for one in np.eye(len(rule.times)).tolist()])
    off_diagonal = hessian - np.diag(hessian.diagonal())
    independent = 2.0 * (off_diagonal**2).sum() * (weights**2).sum()
    assert found < share * independent


def test_rounding_does_not_change_the_codes_of_a_symmetric_structure() -> None:
    codes = separating_codes(ETHANE, 3)
    noise = np.random.default_rng(0).normal(0.0, 1e-12, (20, *ETHANE.shape))
    for each in noise:
        assert (separating_codes(ETHANE + each, 3) == codes).all()


def test_atoms_at_one_place_have_codes_too() -> None:
    with np.errstate(all="raise"):
        codes = separating_codes(np.zeros((2, 3)), bits=3)
    assert len(set(codes.ravel().tolist())) == 6


def test_coordinates_of_one_atom_have_different_codes() -> None:
    assert all(len(set(each)) == 3 for each in separating_codes(ETHANE, 3).tolist())
