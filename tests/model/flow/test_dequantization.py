"""Dequantizers on toy densities whose probability of every type is known by other means."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import ks_2samp, norm

from enflow.model.config import DequantizerConfig
from enflow.model.errors import ConfigError
from enflow.model.flow.dequantization import REGISTRY, Dequantized, Dequantizer, build
from enflow.model.flow.noise import generator

NUMBERS = (1, 6, 8)
CENTRES = {"ordinal": 6.3, "types": np.array([0.1, 0.3, 0.2])}
WIDTH = 0.6
"""The toy flow: independent normals of this width around these centres, one per channel."""

CONFIGS = {
    "truncated": DequantizerConfig("truncated", scale=0.25, sigma=0.5),
    "uniform": DequantizerConfig("uniform", scale=0.5),
    "argmax": DequantizerConfig("argmax", scale=0.25, sigma=0.5, node_dim=8, n_layers=2),
    "variational": DequantizerConfig("variational", node_dim=8, n_layers=2),
    "argmax_variational": DequantizerConfig("argmax_variational", scale=0.0, sigma=1.0, node_dim=8, n_layers=2),
}


CONTINUOUS = [kind for kind in REGISTRY if kind != "given"]
"""Kinds whose features have a density; the other is tested in test_compositions and test_molecule_flow."""


def make(kind: str) -> Dequantizer:
    torch.manual_seed(5)
    dequantizer = build(CONFIGS[kind], NUMBERS).double()
    with torch.no_grad():  # q far from trivial, and not too wide
        for parameter in dequantizer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if hasattr(dequantizer, "network"):
            dequantizer.network.readout.weight.mul_(0.3)
    return dequantizer


def draw(dequantizer: Dequantizer, types: Sequence[int], draws: int) -> Dequantized:
    """Single atoms: (draws x types, 1, F)."""
    atom_types = torch.tensor(types).repeat(draws)[:, None]
    mask = torch.ones_like(atom_types, dtype=torch.bool)
    source = generator(11, 0, "dequantize")
    noise = dequantizer.sample_noise([source] * len(mask), mask)
    with torch.no_grad():
        return dequantizer.dequantize(atom_types, torch.zeros(len(mask), 1, 3, dtype=torch.float64), mask, noise)


def centres(kind: str) -> np.ndarray:
    types = [] if kind == "variational" else list(CENTRES["types"])
    return np.array(types + ([CENTRES["ordinal"]] if "variational" in kind else []))


def log_weights(kind: str, type_: int, draws: int) -> torch.Tensor:
    h, log_q = draw(make(kind), [type_], draws)
    return torch.tensor(log_density(kind, h)) - log_q


def log_density(kind: str, h: torch.Tensor) -> np.ndarray:
    return norm.logpdf(h.numpy(), centres(kind), WIDTH).sum((-2, -1))


def region_probability(kind: str, type_: int) -> float:
    """Return the probability, under the toy density, of the region of this type."""
    mean = CENTRES["types"]
    if kind == "uniform":
        side, corner = CONFIGS[kind].scale, CONFIGS[kind].scale * np.eye(3)[type_]
        edges = norm.cdf((corner + side / 2 - mean) / WIDTH) - norm.cdf((corner - side / 2 - mean) / WIDTH)
        return float(edges.prod())
    probability = 1.0
    if "variational" in kind:
        probability *= np.diff(norm.cdf((NUMBERS[type_] + np.array([0, 1]) - CENTRES["ordinal"]) / WIDTH))[0]
    if kind != "variational":
        others = np.delete(mean, type_)
        probability *= quad(
            lambda v: norm.pdf(v, mean[type_], WIDTH) * norm.cdf((v - others) / WIDTH).prod(), -4, 5, epsabs=1e-12
        )[0]
    return float(probability)


@pytest.mark.parametrize("kind", ["truncated", "uniform"])
def test_importance_weights_average_to_the_probability_of_the_region(kind: str) -> None:
    # E_q[p / q] = integral of p over the support of q: wrong whenever log_q is not the density that was drawn from.
    weights = log_weights(kind, 1, 20_000).exp()
    error = weights.std().item() / math.sqrt(len(weights))
    expected = region_probability(kind, 1)
    assert error < 0.02 * expected
    assert weights.mean().item() == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize(
    ("kind", "grid"),
    [
        ("argmax", np.linspace(-12, 12, 65)),
        ("variational", np.linspace(-12, 12, 2001)),
        ("argmax_variational", np.linspace(-9, 9, 31)),
    ],
)
def test_learned_weights_integrate_to_the_probability_of_the_region(kind: str, grid: np.ndarray) -> None:
    # The same identity with the integral over the noise on a grid: these weights have too heavy a tail for sampling.
    dequantizer = make(kind)
    axes = torch.tensor(np.stack(np.meshgrid(*[grid] * dequantizer.n_features, indexing="ij"), -1))
    noise = axes.reshape(-1, 1, dequantizer.n_features)
    mask = torch.ones(len(noise), 1, dtype=torch.bool)
    types, x = torch.full((len(noise), 1), 1), torch.zeros(len(noise), 1, 3, dtype=torch.float64)
    with torch.no_grad():
        h, log_q = dequantizer.dequantize(types, x, mask, noise)
    log_normal = norm.logpdf(noise.numpy()).sum((1, 2))
    found = np.exp(log_normal + log_density(kind, h) - log_q.numpy()).sum() * (grid[1] - grid[0]) ** noise.shape[-1]
    assert found == pytest.approx(region_probability(kind, 1), rel=2e-3)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_the_bound_holds_and_tightens_with_importance_draws(kind: str) -> None:
    log_w = log_weights(kind, 1, 16_384)
    bounds = [
        (torch.logsumexp(log_w.reshape(-1, draws), 1) - math.log(draws)).mean().item() for draws in (1, 4, 16, 64, 1024)
    ]
    truth = math.log(region_probability(kind, 1))
    assert bounds == sorted(bounds)
    assert truth - 0.25 < bounds[-1] < truth + 0.02


@pytest.mark.parametrize("ratio", [0.0, 1.0, 5.0])
def test_q_equal_to_the_posterior_closes_the_bound(ratio: float) -> None:
    # A flow that is the mixture of the truncated Gaussians, normalised here by one-dimensional quadrature.
    config = DequantizerConfig("truncated", scale=0.05 * ratio, sigma=0.05)
    weights = np.array([0.5, 0.3, 0.2])
    types = [0, 1, 2]
    h, log_q = draw(build(config, NUMBERS), types, 200)
    region = quad(lambda u: norm.pdf(u) * norm.cdf(ratio + u) ** 2, -10, 10, epsabs=1e-13)[0]
    for row, log_q_row, type_ in zip(h[:, 0].numpy(), log_q.tolist(), types * 200, strict=True):
        assert row.argmax() == type_
        log_p = norm.logpdf(row, config.scale * np.eye(3)[type_], config.sigma).sum() - math.log(region)
        assert math.log(weights[type_]) + log_p - log_q_row == pytest.approx(math.log(weights[type_]), abs=1e-9)


def test_learned_q_is_the_density_of_its_draws() -> None:
    # The map inverted by hand for two types: u_k = T, u_j = T - log(exp(T - v_j) - 1), in units of sigma.
    config = DequantizerConfig("argmax", scale=0.25, sigma=0.1, node_dim=8, n_layers=1)
    torch.manual_seed(0)
    dequantizer = build(config, (1, 6)).double()
    types = torch.tensor([[1]])
    mask, x = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, 3, dtype=torch.float64)
    with torch.no_grad():
        mean, width = dequantizer.posterior(types, x, mask)
    mean, width = mean.flatten().numpy() + np.array([0.0, 2.5]), width.flatten().exp().numpy()

    def density(h: np.ndarray) -> np.ndarray:
        v, top = h / config.sigma, h[..., 1] / config.sigma
        u = np.stack([top - np.log(np.expm1(top - v[..., 0])), top], -1)
        slope = 1.0 + 1.0 / np.expm1(top - v[..., 0])
        return norm.pdf((u - mean) / width).prod(-1) / width.prod() * slope / config.sigma**2

    with torch.no_grad():
        for seed in range(20):
            noise = dequantizer.sample_noise([generator(seed, 0, "dequantize")], mask)
            h, log_q = dequantizer.dequantize(types, x, mask, noise)
            assert log_q.item() == pytest.approx(math.log(density(h[0, 0].numpy())), abs=1e-8)
    top, gap = np.meshgrid(np.linspace(-1.0, 1.5, 1500), np.exp(np.linspace(-9, 1, 1500)), indexing="ij")
    inner = np.trapezoid(density(np.stack([top - gap, top], -1)), gap[0], axis=1)
    assert np.trapezoid(inner, top[:, 0]) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_mirrored_noise_has_the_law_of_noise_and_stays_in_the_region(kind: str) -> None:
    dequantizer, mask = make(kind), torch.ones(4000, 1, dtype=torch.bool)
    noise = dequantizer.sample_noise([generator(4, 0, "dequantize")] * 4000, mask)
    mirrored = dequantizer.mirrored(noise)
    assert torch.allclose(dequantizer.mirrored(mirrored), noise)
    for channel in range(noise.shape[-1]):
        assert ks_2samp(noise[..., channel].flatten(), mirrored[..., channel].flatten()).pvalue > 1e-3
    types = torch.arange(4000)[:, None] % len(NUMBERS)
    with torch.no_grad():
        h, _ = dequantizer.dequantize(types, torch.zeros(4000, 1, 3, dtype=torch.float64), mask, mirrored)
    assert torch.equal(dequantizer.quantize(h, mask), types)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_quantize_undoes_dequantize(kind: str) -> None:
    types = [0, 1, 2, 2, 1]
    h, _ = draw(make(kind), types, 400)
    mask = torch.ones(len(h), 1, dtype=torch.bool)
    assert make(kind).quantize(h, mask)[:, 0].tolist() == types * 400


def test_an_ordinal_between_two_elements_goes_to_the_nearer() -> None:
    h = torch.tensor([[[0.2], [4.7], [7.5], [8.9], [30.0]]])
    assert make("variational").quantize(h, torch.ones(1, 5, dtype=torch.bool)).tolist() == [[0, 1, 1, 2, 2]]


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_padding_and_company_change_nothing(kind: str) -> None:
    dequantizer = make(kind)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5, [False] * 5])
    types = torch.tensor([[0, 1, 2, 2, 1], [1, 0, 0, 2, 1], [0, 1, 2, 0, 0]])
    x = torch.randn(3, 5, 3, generator=generator(0, 0, "x"), dtype=torch.float64)
    together = dequantizer.dequantize(
        types, x, mask, dequantizer.sample_noise([generator(0, i, "dequantize") for i in range(3)], mask)
    )
    alone_mask = mask[:1, :3]
    alone = dequantizer.dequantize(
        types[:1, :3], x[:1, :3], alone_mask, dequantizer.sample_noise([generator(0, 0, "dequantize")], alone_mask)
    )
    torch.testing.assert_close(together.h[0, :3], alone.h[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(together.log_q[:1], alone.log_q, rtol=0, atol=1e-12)
    assert not together.h[~mask].any()
    assert together.log_q[2] == 0
    assert not dequantizer.quantize(together.h, mask)[~mask].any()


@pytest.mark.parametrize("kind", ["argmax", "variational", "argmax_variational"])
def test_learned_q_knows_the_molecule_but_not_its_orientation(kind: str) -> None:
    dequantizer = make(kind)
    types, mask = torch.tensor([[0, 1, 2, 2]]), torch.ones(1, 4, dtype=torch.bool)
    x = torch.randn(1, 4, 3, generator=generator(0, 0, "x"), dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator(1, 0, "x"), dtype=torch.float64))
    noise = dequantizer.sample_noise([generator(0, 0, "dequantize")], mask)
    with torch.no_grad():
        reference = dequantizer.dequantize(types, x, mask, noise)
        moved = dequantizer.dequantize(types, x @ turn + 3.0, mask, noise)
        stretched = dequantizer.dequantize(types, 1.5 * x, mask, noise)
    torch.testing.assert_close(moved.h, reference.h, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved.log_q, reference.log_q, rtol=1e-10, atol=1e-10)
    assert (stretched.h - reference.h).abs().max() > 1e-3


def test_an_unknown_kind_and_impossible_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="kind is 'gumbel'; expected 'truncated', 'uniform', 'argmax'"):
        DequantizerConfig(kind="gumbel")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"sigma is 0\.0; expected more than 0"):
        DequantizerConfig(sigma=0.0)
    with pytest.raises(ConfigError, match=r"scale is 0\.0; expected more than 0"):
        DequantizerConfig("uniform", scale=0.0)
