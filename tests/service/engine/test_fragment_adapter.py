"""A flow around fragments in the engine, against the same flow in the library."""

import numpy as np
import pytest
import torch

from enflow.model.chem.molecule import Molecule
from enflow.model.config import FlowConfig, FragmentConfig
from enflow.model.flow.arguments import SizeRange
from enflow.model.flow.completion import Completion
from enflow.model.flow.estimate import Draw
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.service.engine.config import EngineConfig
from enflow.service.engine.core import Engine
from enflow.service.engine.fragment_adapter import FragmentAdapter
from enflow.service.engine.requests import MoleculeState
from enflow.service.protocol.events import Done, Event, Failed, Reason, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineLikelihoodRequest,
    EngineSampleRequest,
    EstimatorOptions,
    LatentArrays,
    Size,
    Structure,
)
from tests.stubs import run

CARBONYL = Molecule([6, 8], [[10.0, -3.0, 2.0], [10.0, -3.0, 3.2]])
METHYL = Molecule([1, 6, 1, 1], [[1.03, 0, 0.36], [0, 0, 0], [-0.51, 0.89, 0.36], [-0.51, -0.89, 0.36]])


@pytest.fixture(scope="module")
def flow() -> FragmentFlow:
    torch.manual_seed(0)
    dynamics = FragmentConfig(node_dim=16, edge_dim=8, n_vectors=4, n_layers=2, n_radial=4)
    return FragmentFlow(FlowConfig(dynamics=dynamics)).eval().requires_grad_(False)


@pytest.fixture
def engine(flow: FragmentFlow) -> Engine:
    return Engine(flow, EngineConfig(pairs=2000, slots=8, sizes=(9,)))


def request(name: str, fragment: Molecule | None, *n_atoms: Size) -> EngineSampleRequest:
    given = fragment and Structure(fragment.atomic_numbers, fragment.positions)
    return EngineSampleRequest(id=name, seed=5, n_atoms=n_atoms, fragment=given, frames=2)


def test_different_fragments_share_steps_and_grow_as_in_the_library(flow: FragmentFlow, engine: Engine) -> None:
    wanted = {"carbonyl": (CARBONYL, [5, None, 9]), "methyl": (METHYL, [7, SizeRange(2, 6), None])}
    for name, (fragment, sizes) in wanted.items():
        engine.add(request(name, fragment, *sizes))
    events: list[Event] = []
    while not engine.idle:
        events += engine.step()
    for name, (fragment, sizes) in wanted.items():
        found = {each.index: each for each in events if isinstance(each, Sampled) and each.id == name}
        for index, molecule in enumerate(flow.sample(fragment=fragment, n_atoms=sizes, seed=5)):
            sampled, m = found[index], fragment.n_atoms
            assert sampled.atomic_numbers.tolist() == molecule.atomic_numbers.tolist()
            assert np.array_equal(sampled.positions[:m], fragment.positions)
            np.testing.assert_allclose(sampled.positions, molecule.positions, atol=1e-3)
            for frame in sampled.frames:
                assert np.array_equal(frame.positions[:m], fragment.positions)
            assert np.linalg.norm(sampled.frames[0].positions[m:] - sampled.positions[m:], axis=1).min() > 1e-3


def test_the_score_is_that_of_the_library(flow: FragmentFlow, engine: Engine) -> None:
    (molecule,) = flow.sample(fragment=METHYL, n_atoms=6, seed=2)
    options = EstimatorOptions("exact", draws=4)  # an estimate also has the noise of its differences
    structure = Structure(molecule.atomic_numbers, molecule.positions)
    asked = EngineLikelihoodRequest(id="score", molecules=(structure,), given=4, seed=3, options=options)
    scored, done = run(engine, asked)
    assert isinstance(scored, Scored)
    assert isinstance(done, Done)
    (expected,) = flow.log_prob([Completion(molecule, (0, 1, 2, 3))], seed=3, divergence="exact", draws=4)
    assert scored.nll == pytest.approx(expected.nll, abs=0.05)
    assert scored.parts["n_atoms"] == 0
    assert scored.atoms[:4] == (0, 0, 0, 0)
    assert min(scored.atoms[4:]) > 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (request("none", None, 5), "found no fragment, expected one"),
        (request("small", METHYL, 4), "found 4 atoms in all, expected more than the 4 given ones"),
        (
            EngineDecodeRequest(id="decode", latents=(LatentArrays(np.zeros((3, 3)), np.zeros((3, 6))),)),
            "found no fragment, expected one",
        ),
    ],
)
def test_requests_that_cannot_be(engine: Engine, asked: EngineSampleRequest, said: str) -> None:
    failed, _ = run(engine, asked)
    assert isinstance(failed, Failed)
    assert failed.reason == Reason.STRUCTURE
    assert said in failed.detail


def test_the_known_answer_is_computed(engine: Engine) -> None:
    assert engine.check()


def test_draws_end_by_the_error_that_is_reported(flow: FragmentFlow) -> None:
    adapter = FragmentAdapter(flow)
    draws = [Draw(-50.0 + shift, 0.0, 0.0, variance=0.5) for shift in (0.0, 0.5, -0.4, 0.2)]
    molecule = MoleculeState(0, n_atoms=18, draws=draws)
    for given in (1, 9, 17):
        scored = EngineLikelihoodRequest(id="l", molecules=(), given=given)
        error = adapter.combined(scored, molecule, EstimatorOptions()).std_error
        assert error is not None
        for target in (0.9 * error, 1.1 * error):
            more = adapter.further_draws(scored, molecule, EstimatorOptions(target_error=target))
            assert (more > 0) == (error > target)
