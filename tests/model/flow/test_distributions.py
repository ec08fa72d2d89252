"""The base distributions against scipy, on an explicit orthonormal basis of the subspace."""

import numpy as np
import pytest
import torch
from scipy.linalg import null_space
from scipy.stats import chi2, kstest, multivariate_normal, norm

from enflow.model.errors import VocabularyError
from enflow.model.flow.arguments import SizeRange
from enflow.model.flow.distributions import AtomCountPrior, CenteredGaussian, FeatureGaussian
from enflow.model.flow.geometry import centre
from enflow.model.flow.noise import generator

MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])


def noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=generator(1, 0, "test"), dtype=torch.float64)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_centred_density_is_that_of_coordinates_in_the_subspace(n_dims: int) -> None:
    x = centre(2.0 * noise((3, 5, n_dims)), MASK)
    found = CenteredGaussian(n_dims).log_prob(x, MASK)
    for row, n, log_prob in zip(x.numpy(), [5, 3, 1], found, strict=True):
        basis = np.kron(null_space(np.ones((1, n))), np.eye(n_dims))  # (n D, (n - 1) D)
        assert basis.shape == (n * n_dims, (n - 1) * n_dims)
        coordinates = basis.T @ row[:n].reshape(-1)
        assert log_prob.item() == pytest.approx(norm.logpdf(coordinates).sum(), abs=1e-12)


def test_feature_density_is_a_product_of_normals_over_real_atoms() -> None:
    h = noise((3, 5, 4)) * MASK[..., None]
    found = FeatureGaussian(4).log_prob(h, MASK)
    for row, real, log_prob in zip(h, MASK, found, strict=True):
        values = row[real].reshape(-1).numpy()
        expected = multivariate_normal(np.zeros(len(values))).logpdf(values)
        assert log_prob.item() == pytest.approx(expected, abs=1e-12)


def test_a_row_of_padding_alone_has_density_one() -> None:
    mask = torch.zeros(1, 4, dtype=torch.bool)
    assert CenteredGaussian().log_prob(torch.zeros(1, 4, 3), mask).item() == 0.0
    assert FeatureGaussian(2).log_prob(torch.zeros(1, 4, 2), mask).item() == 0.0


def test_samples_are_centred_and_their_radius_is_chi_squared_in_the_subspace() -> None:
    mask = torch.ones(2000, 4, dtype=torch.bool)
    mask[:, 3] = False
    x = CenteredGaussian().sample(mask, [generator(0, i, "latent") for i in range(2000)])
    assert x.sum(1).abs().max() < 1e-12
    assert not x[:, 3].any()
    assert kstest(x.square().sum((1, 2)).numpy(), chi2(df=3 * (3 - 1)).cdf).pvalue > 0.01


def test_a_sample_depends_on_its_generator_alone() -> None:
    together = CenteredGaussian().sample(MASK, [generator(7, i, "latent") for i in range(3)])
    alone = CenteredGaussian().sample(MASK[1:2, :3], [generator(7, 1, "latent")])
    assert torch.equal(together[1, :3], alone[0])


def test_atom_counts_follow_their_histogram() -> None:
    prior = AtomCountPrior.from_counts([0, 10, 0, 30], pseudocount=0.0)
    assert prior.log_prob(torch.tensor([1, 3])).exp().tolist() == pytest.approx([0.25, 0.75])
    source = generator(3, 0, "n_atoms")
    drawn = np.bincount([prior.sample(source) for _ in range(4000)], minlength=4)
    assert drawn[0] == drawn[2] == 0
    assert drawn[1] == pytest.approx(1000, abs=4 * np.sqrt(4000 * 0.25 * 0.75))


def test_a_size_in_a_range_has_the_prior_restricted_to_it() -> None:
    """A quarter of the sizes 2 to 4 with weights 10, 0 and 30 is 2; 1 and 5 are outside, and 3 has no weight."""
    prior = AtomCountPrior.from_counts([0, 50, 10, 0, 30, 50], pseudocount=0.0)
    source = generator(3, 0, "n_atoms")
    drawn = np.bincount([prior.sample(source, within=SizeRange(2, 4)) for _ in range(4000)], minlength=6)
    assert drawn[[0, 1, 3, 5]].tolist() == [0, 0, 0, 0]
    assert drawn[2] == pytest.approx(1000, abs=4 * np.sqrt(4000 * 0.25 * 0.75))
    assert prior.sample(source, 3, SizeRange(2, 4)) == 4
    with pytest.raises(VocabularyError, match="found a range of 3 to 3 atoms, expected a size that the model knows"):
        prior.sample(source, within=SizeRange(3, 3))


def test_an_unseen_size_is_unlikely_but_not_impossible() -> None:
    prior = AtomCountPrior.from_counts([0, 10, 0, 30])
    probabilities = prior.log_prob(torch.tensor([1, 2, 3])).exp()
    assert probabilities.tolist() == pytest.approx([10.5 / 41.5, 0.5 / 41.5, 30.5 / 41.5])


@pytest.mark.parametrize("n_atoms", [0, 4, -1])
def test_a_size_outside_the_table_is_refused(n_atoms: int) -> None:
    prior = AtomCountPrior.from_counts([0, 10, 0, 30])
    with pytest.raises(VocabularyError, match=f"found {n_atoms} atoms, expected 1 to 3"):
        prior.log_prob(torch.tensor([2, n_atoms]))
