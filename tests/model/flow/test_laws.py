"""Every dynamics in the registry keeps the laws."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from enflow.model.chem.molecule import Molecule
from enflow.model.config import GNNConfig, ParticleConfig
from enflow.model.flow import dynamics
from enflow.model.flow.particle_flow import ParticleFlow
from tests import laws
from tests.model.flow.fields import states
from tests.model.flow.small_networks import configs, perturbed, small_flow

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])
FLUOROMETHANE = Molecule(
    [6, 9, 1, 1, 1],
    [[0.0, 0.0, -0.63], [0.0, 0.0, 0.76], [1.03, 0.0, -0.99], [-0.52, 0.89, -0.99], [-0.52, -0.89, -0.99]],
)

Law = Callable[..., None]


def name(value: Any) -> str:
    return value.__name__ if callable(value) else value.kind


def of_molecules(config: Any) -> bool:
    """True for the configurations that a MoleculeFlow takes."""
    return config.n_features in (5, 6) and config.kind != "fragment"


@pytest.mark.parametrize("law", [*laws.EVERY, *laws.EQUIVARIANT], ids=name)
@pytest.mark.parametrize("config", configs(), ids=name)
def test_dynamics(config: Any, law: Law) -> None:
    velocity = perturbed(dynamics.build(config))
    if law in laws.EQUIVARIANT and not velocity.equivariant:
        pytest.skip(f"{config.kind} declares itself not equivariant")
    law(velocity, config.n_features)


@pytest.mark.parametrize("law", [*laws.EVERY, *laws.EQUIVARIANT], ids=name)
@pytest.mark.parametrize("config", [config for config in configs() if not config.n_features], ids=name)
def test_dynamics_in_the_plane(config: Any, law: Law) -> None:
    flat = replace(config, n_dims=2) if isinstance(config, GNNConfig) else config
    velocity = perturbed(dynamics.build(flat))
    if law in laws.EQUIVARIANT and not velocity.equivariant:
        pytest.skip(f"{config.kind} declares itself not equivariant")
    law(velocity, 0, n_dims=2)


@pytest.mark.parametrize("law", [*laws.FLOW, *laws.EQUIVARIANT_FLOW], ids=name)
@pytest.mark.parametrize(
    "config", [config for config in configs() if config.n_features in (5, 6) and config.kind != "fragment"], ids=name
)
def test_flow(config: Any, law: Law) -> None:
    flow = small_flow(config)
    if law in laws.EQUIVARIANT_FLOW and not flow.dynamics.equivariant:
        pytest.skip(f"{config.kind} declares itself not equivariant")
    law(flow, [WATER, FLUOROMETHANE])


@pytest.mark.parametrize("law", [*laws.PARTICLE_FLOW, *laws.EQUIVARIANT_PARTICLE_FLOW], ids=name)
@pytest.mark.parametrize("config", [config for config in configs() if not config.n_features], ids=name)
def test_particle_flow(config: Any, law: Law) -> None:
    flat = replace(config, n_dims=2) if isinstance(config, GNNConfig) else config
    flow = ParticleFlow(ParticleConfig(n_particles=3, n_dims=2, scale=1.4, dynamics=flat))
    perturbed(flow)
    if law in laws.EQUIVARIANT_PARTICLE_FLOW and not flow.dynamics.equivariant:
        pytest.skip(f"{config.kind} declares itself not equivariant")
    law(flow, states([3, 3], 0, n_dims=2)[0])
