"""Fragments of molecules, and the flow matching of the atoms around them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from enflow.model.checkpoint import Card, Dataset, load, load_fragments, load_molecules, save
from enflow.model.config import DequantizerConfig, FlowConfig, VectorEGNNConfig
from enflow.model.errors import ConfigError, WeightsError
from enflow.model.flow.coupling import transport_around
from enflow.model.flow.dynamics import centre_velocity
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.config import TrainConfig, read_config
from enflow.model.training.data.fragments import TWO, joined, random_fragment, random_fragments
from enflow.model.training.fragment_objective import FragmentMatching, couple_around
from enflow.model.training.trainer import objective_of, starting_flow
from tests.model.flow.small_networks import FRAGMENT

REPOSITORY = Path(__file__).parents[3]

# Ethanol: C C O, three and two hydrogen atoms at the carbons, one at the oxygen.
NUMBERS = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
POSITIONS = np.array([
    [-1.19, -0.22, 0.0], [0.0, 0.72, 0.0], [1.19, -0.06, 0.0], [-2.13, 0.35, 0.0], [-1.19, -0.87, 0.88],
    [-1.19, -0.87, -0.88], [0.0, 1.37, 0.88], [0.0, 1.37, -0.88], [1.93, 0.55, 0.0],
])  # fmt: skip
BONDS = {(0, 1), (1, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (2, 8)}
PARTS = {
    (0,), (0, 3, 4, 5), (1,), (1, 6, 7), (2,), (2, 8), (0, 1, 3, 4, 5), (0, 1, 3, 4, 5, 6, 7), (1, 2, 8),
    (1, 2, 6, 7, 8), (0, 1, 2),
}  # fmt: skip
"""Each connected part; a carbon or oxygen atom with a cut bond has kept its hydrogen atoms or lost all of them."""
TWO_PARTS = {(0, 2), (0, 2, 8), (0, 2, 3, 4, 5), (0, 2, 3, 4, 5, 8)}


def test_the_bonds_of_ethanol() -> None:
    assert {(i, j) for i, j in zip(*np.nonzero(joined(NUMBERS, POSITIONS)), strict=True) if i < j} == BONDS


def test_every_connected_part_is_drawn_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    drawn = {tuple(np.flatnonzero(random_fragment(NUMBERS, POSITIONS, rng)).tolist()) for _ in range(200)}
    assert drawn == PARTS


def test_one_connected_part_is_drawn_or_two_without_a_bond_between_them() -> None:
    rng = np.random.default_rng(0)
    drawn = [tuple(np.flatnonzero(random_fragments(NUMBERS, POSITIONS, rng)).tolist()) for _ in range(400)]
    assert set(drawn) == PARTS | TWO_PARTS
    # There is a second part where the first one is an end: in 1 / 3 of the draws it has one atom, 2 / 3 of them an end.
    share = sum(each in TWO_PARTS for each in drawn) / len(drawn)
    expected = TWO * 2 / 9
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(drawn)) ** 0.5)


@pytest.mark.parametrize("numbers", [[6, 1, 1, 1, 1], [6, 6], [8, 1, 1]])
def test_a_fragment_is_never_the_whole_molecule(numbers: list[int]) -> None:
    positions = np.random.default_rng(0).standard_normal((len(numbers), 3)) * 0.6
    for seed in range(20):
        for draw in (random_fragment, random_fragments):
            part = draw(np.array(numbers), positions, np.random.default_rng(seed))
            assert 0 < part.sum() < len(numbers)


def pairs():
    rng = np.random.default_rng(1)
    types = np.array([[1, 1, 3, 0, 0, 0, 0, 0, 0]] * 64)
    given = np.array([[True, True, False] + [False] * 6] * 64)
    corners = 0.25 * np.eye(5, dtype=np.float32)
    positions = np.repeat(POSITIONS[None].astype(np.float32), 64, 0)
    return couple_around(types, positions, given, corners, 0.05, rng, np.repeat(NUMBERS[None], 64, 0))


def test_the_fragment_stands_still_and_noise_around_it_is_normal() -> None:
    drawn = pairs().pairs
    apart = [x[:, 0] - x[:, 1] for x in (drawn.x0, drawn.x1)]
    torch.testing.assert_close(apart[0], apart[1])
    assert torch.equal(drawn.h0[:, :2], drawn.h1[:, :2])
    assert torch.equal(drawn.h1[:, :2], drawn.centres[:, :2])
    # The carbon atoms lack three and three bonds: the noise lies around their middle.
    noise = drawn.x0[:, 2:] - drawn.x0[:, :2].mean(1, keepdim=True)
    squares = noise.square().sum((1, 2))  # chi-squared with 21 degrees of freedom: its variance is 42
    assert float(squares.mean()) == pytest.approx(21, abs=4 * (42 / 64) ** 0.5)


def test_the_loss_vanishes_at_the_velocity_of_the_pairs() -> None:
    drawn = pairs()
    objective = FragmentMatching(FlowConfig(dynamics=FRAGMENT), TrainConfig().matching, "cpu")
    t = torch.full((64,), 0.4)

    def exact(t, x, h, mask):
        dh = centre_velocity(t, h[..., :-1], drawn.pairs.centres, 0.05) * (1 - h[..., -1:])
        return drawn.pairs.x1 - drawn.pairs.x0, torch.cat([dh, torch.zeros_like(h[..., -1:])], -1)

    x, h = objective.errors(exact, drawn, t)
    assert float(x.max()) == 0
    assert float(h.max()) < 1e-10
    still, _ = objective.errors(lambda *state: (0 * state[1], 0 * state[2]), drawn, t)
    assert float(still.min()) > 0.1


def test_it_begins_from_the_weights_of_a_flow_of_all_atoms() -> None:
    """With its flag ignored and nothing given, the network gives the types that the flow's network gives."""
    whole = VectorEGNNConfig(**{**{k: v for k, v in vars(FRAGMENT).items() if k != "kind"}, "n_features": 5})
    torch.manual_seed(0)
    flow = MoleculeFlow(FlowConfig(dynamics=whole, dequantizer=DequantizerConfig()))
    objective = objective_of(TrainConfig(flow=FlowConfig(dynamics=FRAGMENT)), "cpu")
    assert isinstance(objective, FragmentMatching)
    network = objective.build()
    objective.copy_weights(network, flow)
    x, h, mask = torch.randn(2, 4, 3), torch.randn(2, 4, 5), torch.ones(2, 4, dtype=torch.bool)
    x = x - x.mean(1, keepdim=True)
    t, nothing = torch.tensor([0.2, 0.6]), torch.zeros(2, 4, 1)
    dx, dh = flow.velocity(t, x, h, mask)
    found_x, found_h = network(t, x, torch.cat([h, nothing], -1), mask)
    torch.testing.assert_close(found_x, dx, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_h[..., :-1], dh, rtol=1e-4, atol=1e-5)
    made = objective.flow(network)
    assert isinstance(made, FragmentFlow)
    assert made.config == replace(made.config, dynamics=FRAGMENT)


def test_weights_come_back_from_disk(tmp_path: Path) -> None:
    flow = FragmentFlow(FlowConfig(dynamics=FRAGMENT))
    dataset = Dataset("none", "0" * 64, "none")
    save(flow, tmp_path, Card("fragment", "2026-01-01T00:00:00Z", "0" * 7, flow.config, dataset, 0, "MIT", {}))
    found = load_fragments(tmp_path)
    assert found.config == flow.config
    weights = found.dynamics.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in flow.dynamics.state_dict().items())
    assert isinstance(load(tmp_path), FragmentFlow)
    with pytest.raises(WeightsError, match="holds a model of the atoms around a fragment, expected one of all atoms"):
        load_molecules(tmp_path)


def test_the_bundled_configuration_begins_from_the_bundled_weights() -> None:
    config = read_config(REPOSITORY / "model/training/configs/qm9-fragment.json")
    whole = starting_flow(replace(config, start=str(REPOSITORY / "weights/qm9")))
    assert isinstance(whole, MoleculeFlow)
    objective = objective_of(config, "cpu")
    network = objective.build()
    objective.copy_weights(network, whole)
    first = next(iter(whole.dynamics.network.layers.parameters()))
    assert torch.equal(next(iter(network.network.layers.parameters())), first)


@pytest.mark.parametrize(("name", "value"), [("transport", 3), ("rotations", 2), ("distance_weight", 0.5)])
def test_a_setting_that_has_no_effect_around_fragments_is_refused(name: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "fragment.json"
    flow = {"dynamics": {"kind": "fragment"}}
    path.write_text(json.dumps({"flow": flow, "matching": {"time_power": 2.0, "late_share": 0.5}}))
    assert read_config(path).matching.time_power == 2.0
    path.write_text(json.dumps({"flow": flow, "matching": {name: value}}))
    with pytest.raises(ConfigError, match=rf'found matching\.{name} {value}, expected .*"fragment" does not use it'):
        read_config(path)


def test_a_run_begins_from_the_weights_of_a_flow_around_fragments() -> None:
    bundled = REPOSITORY / "weights/qm9-fragment"
    config = replace(read_config(bundled / "run/config.json"), start=str(bundled))
    start, objective = starting_flow(config), objective_of(config, "cpu")
    assert isinstance(start, FragmentFlow)
    network = objective.build()
    objective.copy_weights(network, start)
    for name, value in start.dynamics.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    dynamics = replace(config.flow.dynamics, n_layers=9)
    with pytest.raises(ConfigError, match="holds another model than the configuration's flow"):
        starting_flow(replace(config, flow=replace(config.flow, dynamics=dynamics)))


def turned(points: np.ndarray, axis: tuple[float, ...], angle: float) -> np.ndarray:
    rotated: np.ndarray = Rotation.from_rotvec(angle * np.array(axis)).apply(points)
    return rotated


@pytest.mark.parametrize(
    ("fragment", "move"),
    [
        ([[0, 0, 0]], lambda x: turned(x, (0.6, 0, 0.8), 0.3)),
        ([[-0.7, 0, 0], [0.7, 0, 0]], lambda x: turned(x, (1, 0, 0), 0.3)),
        ([[-0.7, -0.5, 0], [0.7, -0.5, 0], [0, 1, 0]], lambda x: x * [1, 1, -1]),
    ],
)
def test_noise_turns_by_the_motions_that_leave_the_fragment_in_place(fragment: list, move: Callable) -> None:
    """Noise that is the molecule itself, moved and in another order, comes back as the molecule."""
    x1, h = POSITIONS[3:], np.eye(6)
    order = np.array([3, 0, 5, 1, 2, 4])
    x0, h0 = transport_around(move(x1)[order], 9 * h[order], x1, h, np.array(fragment, float))
    np.testing.assert_allclose(x0, x1, atol=1e-12)
    np.testing.assert_array_equal(h0, 9 * h)


def test_noise_around_four_atoms_is_only_exchanged() -> None:
    rng = np.random.default_rng(3)
    x0, h0, x1, h1, fragment = (rng.standard_normal((n, 3)) for n in (5, 5, 5, 5, 4))
    found, _ = transport_around(x0, h0, x1, h1, fragment - fragment.mean(0))
    assert sorted(found.tolist()) == sorted(x0.tolist())
    assert (found * x1).sum() + (transport_around(x0, h0, x1, h1, fragment)[1] * h1).sum() >= (x0 * x1 + h0 * h1).sum()
