"""Refinement: passes of a sample, their noise and tolerances, and the distribution that they leave as it is."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from enflow.model.chem.molecule import Molecule
from enflow.model.errors import ConfigError
from enflow.model.flow import components
from enflow.model.flow.completion import completion_of
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.ode.tolerances import COARSE, FINE, Ending, accuracy
from enflow.model.flow.refinement import PART, refined, refinement_times
from enflow.model.flow.states import Latent, Sample
from tests.model.flow.small_networks import small_flow
from tests.model.flow.test_fragment_flow import METHANOL, fragment_flow

WIDTH = 1.5
WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])


def test_a_refined_sample_is_its_passes_one_after_the_other() -> None:
    flow = small_flow(act_norm=False)
    rough, last = accuracy(1), accuracy(0)
    tolerance = rough.factor * 1e-5
    (begun,) = flow.decoded([flow.draw_latent(6, 4, 0)], tolerance, tolerance, 0.0, rough.ending)
    assert begun.molecule is not None
    once = begun.molecule
    start = flow.noised(once, 0.6, 4, 0, 1)
    (end,) = flow.solve([start], 0.6, 1.0, 1e-5, 1e-5, ending=last.ending)
    (found,) = flow.sample([6], seed=4, rtol=1e-5, atol=1e-5, refinements=1)
    np.testing.assert_allclose(found.positions, end.x.double().numpy(), atol=1e-6)
    assert found.properties["nfe"] == begun.nfe + end.nfe
    assert np.abs(found.positions - once.positions).max() > 0.1


def test_seed_and_index_fix_it_in_any_company() -> None:
    flow = small_flow()
    (alone,) = (one.molecule for one in flow.samples([6], 3, indices=[2], refinements=2))
    company = flow.sample([4, 9, 6, 5], seed=3, refinements=2)
    assert alone is not None
    assert alone.formula == company[2].formula
    np.testing.assert_allclose(alone.positions, company[2].positions, atol=1e-4)


def test_without_a_number_it_is_that_of_the_configuration() -> None:
    flow = small_flow()
    none, one = flow.sample([5], refinements=0), flow.sample([5], refinements=1)
    np.testing.assert_array_equal(flow.sample([5])[0].positions, none[0].positions)
    assert "refinements" not in flow.sample([5])[0].properties
    flow.config = replace(flow.config, refinements=1)
    np.testing.assert_array_equal(flow.sample([5])[0].positions, one[0].positions)
    assert flow.sample([5])[0].properties["refinements"] == 1


def test_every_refinement_has_noise_of_its_own() -> None:
    flow = small_flow(act_norm=False)
    states = [flow.noised(WATER, 0.0, 0, 0, number).x.norm() for number in range(3)]
    assert len({round(float(each), 6) for each in states}) == 3
    cold = flow.noised(WATER, 0.0, 0, 0, 1, temperature=0.5)
    torch.testing.assert_close(cold.x.norm(), 0.5 * states[1])


class Interpolation(nn.Module):
    """The velocity that flow matching learns of normal positions of width WIDTH and independent noise: x d log(s) / dt.

    x_t is normal of width s = sqrt((1 - t)^2 + t^2 WIDTH^2). The features stand still.
    """

    def __init__(self) -> None:
        super().__init__()
        self.width = nn.Parameter(torch.tensor(WIDTH, dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        variance = (1 - t) ** 2 + (t * self.width) ** 2
        rate = (t * self.width**2 - (1 - t)) / variance
        return rate[:, None, None] * x, torch.zeros_like(h)


def test_it_leaves_the_distribution_of_a_flow_without_errors_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "transport", lambda x0, h0, *_: (x0, h0))
    flow = small_flow(act_norm=False)
    flow.dynamics = Interpolation()
    sizes = [np.array([float((m.positions**2).sum()) for m in flow.sample([7] * 300, refinements=n)]) for n in (0, 2)]
    for each in sizes:  # WIDTH^2 times a chi-squared variable of 18 degrees of freedom
        assert each.mean() == pytest.approx(18 * WIDTH**2, abs=4 * 6 * WIDTH**2 / np.sqrt(300))
        assert each.std() == pytest.approx(6 * WIDTH**2, rel=0.25)
    assert np.corrcoef(*sizes)[0, 1] < 0.9


class Solver:
    """A flow that makes water; sample i, whose latent is i, fails in pass i - 1. It notes how each pass is solved."""

    def __init__(self) -> None:
        self.passes: list[tuple[int, float, float, float, Ending]] = []

    def decoded(self, points: Sequence[Latent], rtol: float, atol: float, t: float, ending: Ending) -> Iterator[Sample]:
        self.passes.append((len(points), rtol, atol, t, ending))
        for place, point in reversed(list(enumerate(points))):
            fails = int(point.x[0, 0]) == len(self.passes)
            yield Sample(place, None if fails else WATER, Status.MIN_STEP if fails else Status.SUCCESS, 10)


def latents_of(places: Sequence[int]) -> list[Latent]:
    return [Latent(torch.full((3, 3), float(place)), torch.zeros(3, 5)) for place in places]


def test_all_passes_but_the_last_are_rough_and_a_failure_ends_a_sample() -> None:
    solver = Solver()

    def noised(place: int, molecule: Molecule, t: float, number: int) -> Latent:
        assert (molecule, t, number) == (WATER, [0.5, 0.7][number - 1], len(solver.passes))
        return latents_of([place])[0]

    found = {one.index: one for one in refined(solver, noised, latents_of(range(5)), [0.5, 0.7], 1e-3, 1e-4)}  # type: ignore[arg-type]
    rough = (pytest.approx(COARSE.factor * 1e-3), pytest.approx(COARSE.factor * 1e-4), COARSE.ending)
    assert [(n, t) for n, _, _, t, _ in solver.passes] == [(5, 0.0), (4, 0.5), (3, 0.7)]
    found_accuracies = [(rtol, atol, ending) for _, rtol, atol, _, ending in solver.passes]
    assert found_accuracies == [rough, rough, (1e-3, 1e-4, FINE)]
    assert {place: one.nfe for place, one in found.items()} == {0: 30, 1: 10, 2: 20, 3: 30, 4: 30}
    assert {place for place, one in found.items() if one.molecule is None} == {1, 2, 3}
    assert {place: one.refinements for place, one in found.items()} == {0: 2, 1: 0, 2: 1, 3: 2, 4: 2}


def test_the_first_samples_are_finished_before_the_last_begin() -> None:
    solver, latents = Solver(), latents_of([0] * (PART + 1))
    samples = refined(solver, lambda *_: latents[0], latents, [0.6], 1e-3, 1e-3)  # type: ignore[arg-type]
    first = [next(samples).index for _ in range(PART)]
    assert [n for n, *_ in solver.passes] == [PART, PART]
    assert sorted(first) == list(range(PART))
    assert [one.index for one in samples] == [PART]


def test_the_times_of_several_refinements_rise() -> None:
    assert [refinement_times(n) for n in range(4)] == [
        [],
        [pytest.approx(0.6)],
        pytest.approx([0.55, 0.65]),
        pytest.approx([0.5, 0.6, 0.7]),
    ]
    assert refinement_times(5) == pytest.approx([0.45, 0.525, 0.6, 0.675, 0.75])


@pytest.mark.parametrize("refinements", [-1, 11])
def test_a_number_out_of_range_is_refused(refinements: int) -> None:
    with pytest.raises(ConfigError, match=rf"found {refinements!r} refinements, expected an integer from 0 to 10"):
        small_flow().sample(5, refinements=refinements)
    with pytest.raises(ConfigError, match=rf"found {refinements!r} refinements, expected an integer from 0 to 10"):
        fragment_flow().sample(2, fragment=METHANOL, n_atoms=10, refinements=refinements)


def test_the_fragment_stays_where_it_is() -> None:
    flow = fragment_flow()
    once, twice = (flow.sample(2, fragment=METHANOL, n_atoms=10, seed=1, refinements=n) for n in (0, 2))
    for before, after in zip(once, twice, strict=True):
        np.testing.assert_allclose(after.positions[:6], METHANOL.positions, atol=1e-6)
        assert np.array_equal(after.atomic_numbers[:6], METHANOL.atomic_numbers)
        assert np.abs(before.positions[6:] - after.positions[6:]).max() > 0.1
        assert (before.properties.get("refinements"), after.properties["refinements"]) == (None, 2)


def test_the_noise_around_a_fragment_is_coupled_to_the_other_atoms() -> None:
    flow = fragment_flow()
    (molecule,) = flow.sample(1, fragment=METHANOL, n_atoms=12, seed=1, refinements=0)
    completion = completion_of(molecule, METHANOL)
    noise, data = (flow.noised_completion(completion, t, 0, 0, 1) for t in (0.0, 1.0))
    drawn = flow.draw_completion(METHANOL, 12, 0, 0, refinement=1)
    lengths = [(each.x[6:] - each.x[:6].mean(0)).norm(dim=1).sort().values for each in (noise, drawn)]
    torch.testing.assert_close(*lengths)
    np.testing.assert_allclose(data.x.numpy(), molecule.positions - molecule.positions.mean(0), atol=1e-9)
    path, other = ((data.x - each.x + each.x[:6].mean(0) - data.x[:6].mean(0))[6:] for each in (noise, drawn))
    assert path.square().sum() < other.square().sum()
