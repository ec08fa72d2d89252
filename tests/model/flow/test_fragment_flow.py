"""FragmentFlow: the laws of a flow for the atoms around a fragment, and a density that is known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from enflow.model.chem.connectivity import in_one_piece
from enflow.model.chem.molecule import Molecule
from enflow.model.config import DequantizerConfig, FlowConfig
from enflow.model.errors import ConfigError, StructureError, VocabularyError
from enflow.model.flow.completion import Completion
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.geometry import centre
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.noise import generator
from enflow.model.selection import Selection, select
from tests.laws import rotation
from tests.model.flow.fields import states
from tests.model.flow.small_networks import FRAGMENT, OURS, perturbed, small_flow

METHANOL = Molecule(
    [6, 8, 1, 1, 1, 1],
    [[-0.05, 0.66, 0], [-0.05, -0.76, 0], [-1.09, 0.98, 0], [0.44, 1.07, 0.89], [0.44, 1.07, -0.89], [0.88, -1.06, 0]],
)
COMPLETION = Completion(METHANOL, (1, 0))
RATES = 0.3, -0.2


class Growth(nn.Module):
    """The other atoms move away from the mean of the fragment: dx = a x, dh = b h."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor(RATES, dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        flag, free = h[..., -1:], (1.0 - h[..., -1:]) * mask[..., None]
        middle = (x * flag).sum(1, keepdim=True) / flag.sum(1, keepdim=True)
        dh = torch.cat([self.rates[1] * h[..., :-1] * free, torch.zeros_like(flag)], -1)
        return centre(self.rates[0] * (x - middle) * free, mask), dh


def fragment_flow(known: bool = False) -> FragmentFlow:
    wide = DequantizerConfig("truncated", scale=0.6, sigma=0.6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = FragmentFlow(FlowConfig(dynamics=FRAGMENT, dequantizer=wide if known else DequantizerConfig()))
    perturbed(flow)
    if known:
        flow.dynamics = Growth()
    return flow.requires_grad_(False)


def test_the_fragment_moves_as_one_body_and_the_others_relative_to_it() -> None:
    flow = fragment_flow()
    x, h, mask = states([5, 4], 6)
    h[..., -1] = torch.tensor([1.0, 1, 1, 0, 0])
    dx, dh = flow.velocity(torch.tensor([0.3, 0.7]).double(), x, h * mask[..., None], mask)
    assert (dx[:, :3] - dx[:, :1]).abs().max() < 1e-12
    assert (dx[0, 3:] - dx[0, :1]).norm(dim=-1).min() > 1e-3
    assert not dh[:, :3].any()
    assert not dh[..., -1].any()
    assert dh[0, 3:, :5].abs().min() > 0


def test_samples_begin_with_the_fragment_as_it_was_given() -> None:
    fragment = Molecule([8, 6, 1], [[3.0, 1.0, -2.0], [4.2, 1.1, -2.3], [4.9, 0.2, -2.0]])
    flow = fragment_flow()
    first, second, again = flow.sample(fragment=fragment, n_atoms=[6, 4, 6], seed=2)
    for index, (one, n_atoms) in enumerate(((first, 6), (second, 4))):
        assert one.n_atoms == n_atoms
        assert np.array_equal(one.atomic_numbers[:3], fragment.atomic_numbers)
        assert np.array_equal(one.positions[:3], fragment.positions)
        assert [one.properties[name] for name in ("seed", "index", "fragment_atoms")] == [2, index, 3]
        assert one.properties["connected"] == in_one_piece(one)
    assert not np.allclose(first.positions[3:], again.positions[3:], atol=0.1)
    (alone,) = flow.sample(fragment=fragment, n_atoms=6, seed=2)
    np.testing.assert_allclose(alone.positions, first.positions, atol=1e-9)


def test_a_fragment_of_another_package_grows_where_it_is_told() -> None:
    flow = fragment_flow()
    (grown,) = flow.sample(1, fragment=METHANOL.to_rdkit(), attach=[2], n_atoms=9, seed=1)
    assert grown.atomic_numbers[:2].tolist() == [6, 8]
    assert grown.properties["fragment_atoms"] == METHANOL.n_atoms - 1
    kept = [i for i in range(METHANOL.n_atoms) if i != 5]
    np.testing.assert_allclose(grown.positions[:5], METHANOL.positions[kept], atol=1e-12)


def test_a_selection_grows_the_molecules_that_sample_grows() -> None:
    flow = fragment_flow()
    given = {"fragment": METHANOL, "attach": [2]}
    expected = flow.sample(n_atoms=[8, 9], seed=1, **given)
    found = select(flow, [8, 9], seed=1, **given)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-9)
        assert other.properties.items() <= one.properties.items()
    by_nll = select(flow, [8, 9], Selection(sort="nll"), seed=1, **given)
    scores = flow.log_prob([Completion(each, (0, 1, 2, 3, 4)) for each in found], seed=1)
    assert [each.properties["nll"] for each in by_nll] == pytest.approx(sorted(score.nll for score in scores), abs=1e-3)
    (third,) = flow.samples([9], 1, indices=[3], **given)
    assert third.molecule is not None
    assert third.index == third.molecule.properties["index"] == 3


def test_a_selection_says_whether_the_flow_takes_a_fragment() -> None:
    with pytest.raises(ConfigError, match="found no fragment, expected one"):
        select(fragment_flow(), [8])
    with pytest.raises(ConfigError, match="expected a flow around fragments"):
        select(small_flow(), [8], fragment=METHANOL)


def test_sizes_that_are_drawn_are_above_that_of_the_fragment() -> None:
    flow = fragment_flow()
    drawn = [flow.draw_size(METHANOL, 3, index) for index in range(400)]
    assert min(drawn) == METHANOL.n_atoms + 1
    assert max(drawn) == 29
    assert np.mean(drawn) == pytest.approx(18, abs=1.2)  # p(N) of an untrained flow is uniform: the mean of 7 to 29
    with pytest.raises(VocabularyError, match="found 29 atoms, expected at most 28"):
        flow.n_atoms.sample(generator(0, 0, "n_atoms"), above=29)
    with pytest.raises(ConfigError, match="found n = 2 and 1 entries of n_atoms"):
        flow.sample(2, fragment=METHANOL, n_atoms=[8])
    with pytest.raises(ConfigError, match="found n = 0, expected an integer of at least 1"):
        flow.sample(0, fragment=METHANOL)


def test_samples_turn_with_their_fragment() -> None:
    """The other atoms have the law of the fragment's orientation: turned noise around it gives the turned molecule."""
    flow, turn = fragment_flow(), rotation(3, reflect=True)
    latent = flow.draw_completion(Molecule([8, 6], [[0, 0, 0], [1.2, 0, 0.3]]), 5, 0, 0)
    straight, turned = flow.decode([latent, latent._replace(x=latent.x @ turn)], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(turned.positions, straight.positions @ turn.numpy(), atol=1e-5)


def test_the_temperature_scales_the_noise_around_the_place_of_the_others() -> None:
    flow = fragment_flow()
    warm, cold, colder = (flow.draw_completion(METHANOL, 20, 0, 0, temperature) for temperature in (1.0, 0.5, 0.1))
    m = METHANOL.n_atoms
    others = [each.x[m:] - each.x[:m].mean(0) for each in (warm, cold, colder)]  # relative to the fragment
    middle = others[2] + (others[2] - others[1]) / 4  # the limit of no noise, on the line through all three
    torch.testing.assert_close(others[0] - middle, 2 * (others[1] - middle))
    torch.testing.assert_close(middle, middle[:1].expand_as(middle))
    torch.testing.assert_close(cold.h[m:, :-1], 0.5 * warm.h[m:, :-1])
    torch.testing.assert_close(cold.h[:m], warm.h[:m])
    with pytest.raises(ConfigError, match="found temperature 3"):
        flow.sample(1, fragment=METHANOL, attach=[6], temperature=3.0)


def test_decode_is_the_inverse_of_encode() -> None:
    flow = fragment_flow()
    (latent,) = flow.encode([COMPLETION], seed=3, rtol=1e-8, atol=1e-8)
    (found,) = flow.decode([latent], rtol=1e-8, atol=1e-8)
    expected = COMPLETION.ordered.centred()
    assert expected.atomic_numbers.tolist() == [8, 6, 1, 1, 1, 1] == found.atomic_numbers.tolist()
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-5)
    assert (latent.x - torch.tensor(expected.positions)).abs().max() > 0.1
    assert 0 < found.properties["parent_distance"] < 1e-5


def test_the_density_is_that_of_the_gaussian_it_is() -> None:
    """Relative to the fragment x(1) = exp(a) x(0) and h(1) = exp(b) h(0) for the four other atoms.

    Carbon and oxygen have the bond order 1 + 1 / 23, since 1.42 angstrom is that far from 1.43 to 1.20. Carbon lacks
    the rest of 4 and oxygen that of 2, both along the y axis: the mean of x(0) is 2 / (6 - 48 / 23) (0.71 + 1.2) there.
    """
    flow = fragment_flow(known=True)
    (found,) = flow.log_prob([COMPLETION], seed=4, divergence="exact", draws=1, rtol=1e-6, atol=1e-6)
    point, log_q = flow.dequantize_completion(COMPLETION, 4, 0)
    x, h = point.x[2:] - point.x[:2].mean(0), point.h[2:, :-1]
    expected = sum(
        -0.5 * float((part * math.exp(-rate) - mean).square().sum())
        - part.numel() * (0.5 * math.log(2 * math.pi) + rate)
        for part, rate, mean in zip((x, h), RATES, (torch.tensor([0, 2 / (6 - 48 / 23) * 1.91, 0]), 0.0), strict=True)
    )
    assert found.log_prob == pytest.approx(expected - log_q, abs=1e-4)
    assert found.parts["divergence"] == pytest.approx(12 * RATES[0] + 20 * RATES[1], abs=1e-5)
    assert found.nfe > 0
    probed = flow.log_prob([COMPLETION], seed=4, draws=1, probes=20)[0]
    assert probed.log_prob == pytest.approx(found.log_prob, abs=2.0)


def test_a_molecule_scores_the_same_however_it_lies() -> None:
    flow, turn = fragment_flow(), rotation(4, reflect=True).numpy()
    turned = Molecule(METHANOL.atomic_numbers, METHANOL.positions @ turn + [3.0, -1.0, 2.0])
    pair = [flow.log_prob([Completion(one, (1, 0))], draws=2, divergence="exact")[0] for one in (METHANOL, turned)]
    assert pair[0].log_prob == pytest.approx(pair[1].log_prob, abs=1e-5)


@pytest.mark.parametrize("given", [(), (0, 0), (6,), (0, 1, 2, 3, 4, 5)])
def test_given_atoms_that_leave_nothing_or_are_none(given: tuple[int, ...]) -> None:
    with pytest.raises(StructureError, match="found the given atoms"):
        Completion(METHANOL, given)


def test_a_molecule_without_given_atoms_is_refused() -> None:
    for call in (
        lambda: fragment_flow().noised(METHANOL, 0.5, 0, 0),
        lambda: fragment_flow().dequantize([METHANOL], 0, [0]),
    ):
        with pytest.raises(ConfigError, match="found molecules without given atoms, expected completions"):
            call()


def test_a_size_that_leaves_no_atom_and_another_dynamics_are_refused() -> None:
    with pytest.raises(StructureError, match="found 5 atoms in all, expected more than the 5 given ones"):
        fragment_flow().sample(fragment=METHANOL, attach=[6], n_atoms=[5])
    with pytest.raises(ConfigError, match=r'found dynamics .egnn., expected "fragment"'):
        FragmentFlow(FlowConfig(dynamics=OURS))
    with pytest.raises(ConfigError, match=r'found dynamics "fragment"'):
        MoleculeFlow(FlowConfig(dynamics=FRAGMENT))
