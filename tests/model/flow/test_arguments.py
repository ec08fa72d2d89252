"""Seeds, numbers of molecules and sizes are checked where they enter a flow."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from enflow.model.chem.molecule import Molecule
from enflow.model.config import MAX_SEED, DequantizerConfig, FlowConfig, ParticleConfig
from enflow.model.errors import ConfigError, VocabularyError
from enflow.model.flow.arguments import checked_seed
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.particle_flow import ParticleFlow
from enflow.model.selection import select
from tests.model.flow.small_networks import FRAGMENT, OURS

HYDROGEN = Molecule([1, 1], [[0.0, 0.0, 0.4], [0.0, 0.0, -0.4]])
FLOW = MoleculeFlow(FlowConfig(dynamics=OURS))
AROUND = FragmentFlow(FlowConfig(dynamics=FRAGMENT, dequantizer=DequantizerConfig("truncated")))
PARTICLES = ParticleFlow(ParticleConfig(n_particles=2, n_dims=1))


def called(method: Any, *arguments: object, **options: object) -> Any:
    """Call a method without the checks of types that the tests have and users do not."""
    return method.__func__.__wrapped__(method.__self__, *arguments, **options)


ENTRIES: dict[str, Callable[[Any], object]] = {
    "samples": lambda seed: called(FLOW.samples, [3], seed),
    "variations": lambda seed: called(FLOW.variations, HYDROGEN, 1, seed=seed),
    "encode": lambda seed: called(FLOW.encode, [HYDROGEN], seed),
    "likelihoods": lambda seed: called(FLOW.likelihoods, [HYDROGEN], seed),
    "fragment samples": lambda seed: called(AROUND.samples, [3], seed, fragment=HYDROGEN),
    "fragment encode": lambda seed: called(AROUND.encode, [], seed),
    "fragment log_prob": lambda seed: called(AROUND.log_prob, [], seed),
    "particles": lambda seed: called(PARTICLES._latents, 1, seed),
}

SEEDS = [None, "a", 1.5, math.nan, -1, True, MAX_SEED + 1, np.int64(-1), np.float64(2)]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("seed", SEEDS, ids=repr)
def test_a_seed_that_is_none_is_refused(entry: str, seed: object) -> None:
    with pytest.raises(ConfigError) as error:
        ENTRIES[entry](seed)
    assert str(error.value) == f"found seed {seed!r}, expected an integer from 0 to {MAX_SEED}"


def test_an_integer_of_numpy_is_the_same_seed() -> None:
    assert [type(checked_seed(seed)) for seed in (3, np.int64(3), np.uint8(3), MAX_SEED)] == [int] * 4
    one, other = (list(called(FLOW.samples, [3], seed, 0.1, 0.1, refinements=0)) for seed in (3, np.int64(3)))
    assert one == other
    assert one[0].molecule.properties == other[0].molecule.properties


@pytest.mark.parametrize("n", [0, -1, 1.5, math.nan, True, "2"], ids=repr)
def test_a_number_of_molecules_that_is_none_is_refused(n: object) -> None:
    for call in (
        lambda: called(FLOW.variations, HYDROGEN, n),
        lambda: called(AROUND.sample, n, fragment=HYDROGEN),
        lambda: called(PARTICLES._latents, n, 0),
    ):
        with pytest.raises(ConfigError, match=r"found n = .*, expected an integer of at least 1"):
            call()


@pytest.mark.parametrize("n_atoms", [3.0, [5.0], [True], [3, b"C"], [(5, 3)], [(3, 4, 5)], [(3, 4.0)]], ids=repr)
def test_a_size_that_is_no_integer_is_refused(n_atoms: object) -> None:
    for call in (
        lambda: called(FLOW.sample, n_atoms),
        lambda: called(AROUND.sample, n_atoms=n_atoms, fragment=HYDROGEN),
        lambda: select.__wrapped__(FLOW, n_atoms),  # type: ignore[attr-defined]
    ):
        with pytest.raises(ConfigError, match=r"found n_atoms .*, expected an integer, a formula, a range"):
            call()


@pytest.mark.parametrize("size", [10**20, 30, 0, -1])
def test_a_size_that_the_model_does_not_know_is_refused(size: int) -> None:
    for n_atoms in (size, [3, size]):
        with pytest.raises(VocabularyError, match=f"found {size} atoms, expected 1 to 29"):
            FLOW.sample(n_atoms)
    if size > 0:
        with pytest.raises(VocabularyError, match=f"found {size} atoms, expected 1 to 29"):
            AROUND.sample(n_atoms=size, fragment=HYDROGEN, attach=[1])


@pytest.mark.parametrize("sizes", [(30, 40), (10**20, 10**21), (-3, 0)])
def test_a_range_without_a_size_that_the_model_knows_is_refused(sizes: tuple[int, int]) -> None:
    expected = rf"found a range of {sizes[0]} to {sizes[1]} atoms, expected a size that the model knows, from"
    with pytest.raises(VocabularyError, match=rf"{expected} 1 to 29"):
        FLOW.sample([sizes])
    with pytest.raises(VocabularyError, match=rf"{expected} 2 to 29"):
        AROUND.sample(n_atoms=[sizes], fragment=HYDROGEN, attach=[1])
