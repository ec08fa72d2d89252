"""Compiled velocities: the values of the eager network, for the right weights and machine only, without a compiler."""

import copy
import errno
import logging
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from enflow.model import checkpoint
from enflow.model.card import read_card
from enflow.model.cli import app
from enflow.model.errors import CompileError
from enflow.model.flow import compiled_velocity
from enflow.model.flow.compiled_velocity import CACHE, find_compiler
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.networks.parity import condition_on_parity
from enflow.model.flow.velocity import pack
from tests.model.flow.compiled_weights import SIZES, tiny_weights

pytestmark = pytest.mark.skipif(not find_compiler(), reason="no C++ compiler")


@pytest.fixture
def place(compiled_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights and with a cache of their compiled velocity."""
    passing = shutil.ignore_patterns("tmp*")  # another process of the tests looks into the cache
    shutil.copytree(compiled_weights, tmp_path, dirs_exist_ok=True, ignore=passing)
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path


def velocity(flow: MoleculeFlow, sizes: tuple[int, ...]) -> torch.Tensor:
    """The packed velocity of molecules of these sizes in one padded batch, whose tensors are views."""
    latents = [flow.draw_latent(n, seed=3, index=n) for n in sizes]
    y = torch.zeros(len(sizes), max(sizes), 3 + latents[0].h.shape[1])
    for row, (x, h) in zip(y, latents, strict=True):
        row[: len(x)] = pack(x, h)
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    with torch.no_grad():
        return pack(*flow.velocity(torch.tensor(0.7).expand(len(sizes)), y[..., :3], y[..., 3:], mask))


def is_used(flow: MoleculeFlow) -> bool:
    with torch.no_grad():
        return flow.compiled is not None and flow.compiled.fits(flow.dynamics, flow.example())


@pytest.mark.parametrize("sizes", [(2,), (9,), (1,), (29, 2, 17), (5,) * 40, (1, 1)])
def test_the_values_are_those_of_the_eager_network(place: Path, sizes: tuple[int, ...]) -> None:
    flow = checkpoint.load(place / "weights")
    assert is_used(flow)
    found = velocity(flow, sizes)
    flow.compiled = None
    torch.testing.assert_close(found, velocity(flow, sizes), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch about itself
def test_types_of_sure_atoms_stay_finite() -> None:
    """Compiled code of torch 2.13 finds expm1(x) = 0 for a small x, where a batch fills its vectors."""
    types = torch.arange(64 * 9).reshape(64, 9) % 3
    logits = torch.linspace(1.0, 30.0, 64)[:, None, None] * torch.nn.functional.one_hot(types, 5).float()
    mask, odd = torch.ones(64, 9, dtype=torch.bool), torch.tensor([True, False, True, False, True])
    found = torch.compile(condition_on_parity)(logits, mask, odd)
    torch.testing.assert_close(found, condition_on_parity(logits, mask, odd), rtol=1e-5, atol=1e-5)


def test_the_molecules_are_the_same(place: Path) -> None:
    flow = checkpoint.load(place / "weights")
    found = flow.sample(SIZES, seed=1)
    flow.compiled = None
    for one, other in zip(found, flow.sample(SIZES, seed=1), strict=True):
        assert one.atomic_numbers.tolist() == other.atomic_numbers.tolist()
        assert abs(one.positions - other.positions).max() < 1e-3


def test_derivatives_other_precisions_changed_weights_and_copies_are_eager(place: Path) -> None:
    flow = checkpoint.load(place / "weights")
    t, x, h, mask = flow.example()
    assert flow.velocity(t, x.requires_grad_(True), h, mask)[0].requires_grad
    assert not is_used(copy.deepcopy(flow))
    assert not is_used(pickle.loads(pickle.dumps(flow)))
    assert checkpoint.load(place / "weights", dtype=torch.float64).compiled is None
    assert flow.compiled is not None
    assert not flow.compiled.fits(flow.dynamics, (t, x, h[..., :4], mask)), "the code would read beyond the tensor"
    before = velocity(flow, (4, 6))
    with torch.no_grad():
        flow.dynamics.network.embed.weight *= 2
    assert not is_used(flow)
    assert (velocity(flow, (4, 6)) - before).abs().max() > 1e-3


def replaced_data(network: torch.nn.Module) -> None:
    network.embed.weight.data = 2 * network.embed.weight.data


def replaced_parameter(network: torch.nn.Module) -> None:
    network.embed.weight = torch.nn.Parameter(2 * network.embed.weight.detach())


def replaced_module(network: torch.nn.Module) -> None:
    network.embed = copy.deepcopy(network.embed)


@pytest.mark.parametrize("change", [replaced_data, replaced_parameter, replaced_module])
def test_weights_that_were_replaced_are_eager(place: Path, change: Callable[[torch.nn.Module], None]) -> None:
    flow = checkpoint.load(place / "weights")
    assert is_used(flow)
    change(flow.dynamics.network)
    assert not is_used(flow)


def test_the_code_belongs_to_weights_a_torch_and_a_processor(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_weights(place / "others", seed=1)
    assert checkpoint.load(place / "others").compiled is None
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.0.0")
        assert checkpoint.load(place / "weights").compiled is None
    with monkeypatch.context() as patch:
        patch.setattr(compiled_velocity, "_processor_flags", lambda: "flags: sse2")
        assert checkpoint.load(place / "weights").compiled is None
    assert checkpoint.load(place / "weights").compiled is not None


@pytest.mark.parametrize("damage", ["cut", "changed", "of other weights"])
def test_damaged_code_is_reported_not_used_and_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    (library,) = (place / "cache").glob("*.so")
    content, weights = library.read_bytes(), place / "weights"
    if damage == "cut":
        library.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        library.write_bytes(content[:4000] + bytes([content[4000] ^ 1]) + content[4001:])
    else:
        weights = place / "others"
        tiny_weights(weights, seed=1)
        library.rename(library.with_name(library.name.replace(_hash(place / "weights"), _hash(weights))))
    with caplog.at_level(logging.WARNING):
        flow = checkpoint.load(weights)
    assert flow.compiled is None
    assert "not used" in caplog.text
    assert "enflow compile" in caplog.text
    velocity(flow, (3, 4))
    if damage != "of other weights":
        monkeypatch.setattr(compiled_velocity, "_compile", lambda *_: _written(place / "new.so", content))
        assert checkpoint.compile_weights(weights) == library
        assert checkpoint.load(weights).compiled is not None


def test_without_a_compiler_the_command_says_so_and_the_network_computes(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(CACHE, str(place / "empty"))
    with pytest.raises(CompileError, match=r"no C\+\+ compiler"):
        checkpoint.compile_weights(place / "weights")
    monkeypatch.setattr("sys.argv", ["enflow", "compile", str(place / "weights")])
    with pytest.raises(SystemExit, match="1"):
        app.main()
    assert capsys.readouterr().err.count("\n") == 1
    assert len(checkpoint.load(place / "weights").sample([3], seed=0)) == 1


def test_a_cache_that_cannot_be_written_is_said_to_be_the_cause(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").touch()
    for cache in (place / "file", place / "file" / "cache"):
        monkeypatch.setenv(CACHE, str(cache))
        with pytest.raises(
            CompileError, match=rf"into {cache}.*: (File exists|Not a directory); .* ENFLOW_CACHE names"
        ):
            checkpoint.compile_weights(place / "weights")
    monkeypatch.setenv(CACHE, str(place / "new"))

    def full(*_arguments: object) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(compiled_velocity, "_compile", full)
    with pytest.raises(CompileError, match=f"into {place}/new: No space left on device"):
        checkpoint.compile_weights(place / "weights")


def test_leftovers_of_a_killed_compilation_are_removed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (library,) = (place / "cache").glob("*.so")
    monkeypatch.setattr(compiled_velocity, "_compile", lambda *_: library.rename(place / "new.so"))
    library.rename(place / "away.so")
    library = place / "away.so"
    old, young, other = (place / "cache" / name for name in ("tmp-velocity-a", "tmp-velocity-b", "tmp-c"))
    for each in (old, young, other):
        each.mkdir()
        (each / "velocity.cpp").touch()
    for each in (old, other):
        os.utime(each, (0, time.time() - 1.1 * compiled_velocity.LEFTOVER_S))
    checkpoint.compile_weights(place / "weights")
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)


def test_a_user_without_a_home_has_no_compiled_code(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(CACHE, str(place / "empty"))
    assert compiled_velocity.cache_folder() == place / "empty"
    monkeypatch.delenv(CACHE)
    assert checkpoint.load(place / "weights").compiled is None
    with pytest.raises(
        CompileError, match="found no home folder of the user, expected one or a folder in ENFLOW_CACHE"
    ):
        compiled_velocity.cache_folder()


def test_the_command_prints_the_path_of_the_code(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["enflow", "compile", str(place / "weights")])
    with pytest.raises(SystemExit) as end:
        app.main()
    assert not end.value.code
    (library,) = (place / "cache").glob("*.so")
    assert capsys.readouterr().out.strip().endswith(str(library))


def _hash(weights: Path) -> str:
    return read_card(weights).weights_sha256[:16]


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
