"""Weights and their card: saved weights come back, and the error for a damaged file names the damage."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from enflow.model.card import BUNDLED, Card, Dataset, bundled_names, find_weights, read_card, write_card
from enflow.model.checkpoint import load, load_molecules, load_particles, save
from enflow.model.config import (
    DequantizerConfig,
    EGNNConfig,
    FlowConfig,
    GNNConfig,
    KernelConfig,
    ParticleConfig,
)
from enflow.model.errors import ConfigError, ModelError, WeightsError
from enflow.model.flow.distributions import AtomCountPrior
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.particle_flow import ParticleFlow

CONFIG = FlowConfig(
    dynamics=EGNNConfig(n_features=6, node_dim=8, edge_dim=4, n_layers=1, n_radial=4, output="velocity"),
    dequantizer=DequantizerConfig("argmax_variational", scale=0.0, sigma=1.0, node_dim=8, n_layers=1),
    act_norm=True,
)
CARD = Card(
    name="tiny",
    created="2026-01-02T03:04:05Z",
    git_commit="0123abc",
    config=CONFIG,
    dataset=Dataset("QM9", "ab" * 32, "train"),
    seed=7,
    licence="MIT",
    metrics={"samples": 10, "atom_stability": 0.5, "test_nll": -1.25, "rdkit": "2026.9.1"},
)
API_FIELDS = (
    "schema_version name created git_commit config dataset seed units time_convention dtype licence weights_sha256 "
    "metrics"
)


def tiny() -> MoleculeFlow:
    torch.manual_seed(3)
    flow = MoleculeFlow(CONFIG)
    flow.n_atoms = AtomCountPrior.from_counts(range(30))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flow.float()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save(tiny(), tmp_path / "tiny", CARD)
    return tmp_path / "tiny"


def edit_card(weights: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((weights / "card.json").read_text())
    change(document)
    (weights / "card.json").write_text(json.dumps(document))


def rewrite_tensors(weights: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors, and write the hash of the new ones into the card."""
    file = weights / "weights.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    edit_card(weights, lambda card: card.update(weights_sha256=digest))


def test_a_flow_comes_back_bit_by_bit(weights: Path) -> None:
    flow, again = tiny(), load(weights)
    assert again.config == flow.config
    assert not again.training
    found, expected = again.state_dict(), flow.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_dtype_is_that_of_the_card_or_of_the_caller(weights: Path) -> None:
    assert {p.dtype for p in load(weights).parameters()} == {torch.float32}
    assert {p.dtype for p in load(weights, dtype=torch.float64).parameters()} == {torch.float64}


def test_the_card_has_the_fields_of_the_contract_and_the_hash_of_the_file(weights: Path) -> None:
    document = json.loads((weights / "card.json").read_text())
    assert set(document) == set(API_FIELDS.split())
    assert document["weights_sha256"] == hashlib.sha256((weights / "weights.safetensors").read_bytes()).hexdigest()
    assert document["config"]["vocabulary"] == [1, 6, 7, 8, 9]
    assert read_card(weights) == replace(CARD, weights_sha256=document["weights_sha256"])


def test_metrics_can_be_written_later(weights: Path) -> None:
    write_card(weights, replace(read_card(weights), metrics={"test_nll": -90.0}))
    assert read_card(weights).metrics == {"test_nll": -90.0}
    load(weights)


def test_saving_again_leaves_nothing_else_behind(weights: Path) -> None:
    save(tiny(), weights, CARD)
    assert sorted(path.name for path in weights.iterdir()) == ["card.json", "weights.safetensors"]


def delete(name: str) -> Callable[[Path], object]:
    return lambda weights: (weights / name).unlink()


def truncate(weights: Path) -> None:
    file = weights / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def tamper(weights: Path) -> None:
    file = weights / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def vouched_truncation(weights: Path) -> None:
    truncate(weights)
    digest = hashlib.sha256((weights / "weights.safetensors").read_bytes()).hexdigest()
    edit_card(weights, lambda card: card.update(weights_sha256=digest))


def write_text(text: str) -> Callable[[Path], object]:
    return lambda weights: (weights / "card.json").write_text(text)


def card_with(**changes: object) -> Callable[[Path], object]:
    return lambda weights: edit_card(weights, lambda card: card.update(changes))


def config_with(**changes: object) -> Callable[[Path], object]:
    return lambda weights: edit_card(weights, lambda card: card["config"].update(changes))


def tensors_with(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    return lambda weights: rewrite_tensors(weights, change)


EMBED = "dynamics.network.embed.weight"

DAMAGE: dict[str, tuple[Callable[[Path], object], type[ModelError], str]] = {
    "no weights": (delete("weights.safetensors"), WeightsError, r"no .*weights\.safetensors"),
    "no card": (delete("card.json"), WeightsError, r"no .*card\.json.*expected a directory"),
    "truncated": (truncate, WeightsError, r"found SHA-256 .* bytes\), card\.json says .*incomplete"),
    "tampered": (tamper, WeightsError, r"found SHA-256 .*card\.json says"),
    "vouched truncation": (vouched_truncation, WeightsError, "is not a safetensors file"),
    "hash mismatch": (card_with(weights_sha256="0" * 64), WeightsError, f"card.json says {'0' * 64}"),
    "not JSON": (write_text("{'name': 1}"), WeightsError, "is not JSON: .*line 1 column 2"),
    "not UTF-8": (lambda w: (w / "card.json").write_bytes(b"\xff\xfe\x00"), WeightsError, "is not JSON"),
    "nested": (write_text("[" * 100_000), WeightsError, "is not JSON"),
    "not an object": (write_text("[]"), WeightsError, "found a list, expected an object"),
    "schema": (card_with(schema_version=2), WeightsError, "found schema_version 2, expected 1"),
    "card key": (card_with(colour="red"), WeightsError, "unknown key 'colour'"),
    "card type": (card_with(seed="7"), WeightsError, "seed is '7'; expected a valid integer"),
    "dtype": (card_with(dtype="int8"), WeightsError, "dtype is 'int8'; expected 'float32' or 'float64'"),
    "card lacks": (lambda w: edit_card(w, lambda card: card.pop("licence")), WeightsError, "no key 'licence'"),
    "config lacks": (lambda w: edit_card(w, lambda card: card.pop("config")), WeightsError, "no key 'config'"),
    "config key": (config_with(wings=2), ConfigError, r"unknown key 'wings' in .*card\.json: config"),
    "config type": (config_with(max_atoms="29"), ConfigError, r"config\.max_atoms is '29'; expected a valid integer"),
    "config value": (
        config_with(dequantizer={"sigma": -1}),
        ConfigError,
        r"dequantizer\.sigma is -1; expected more than 0",
    ),
    "shape": (config_with(max_atoms=28), WeightsError, r"'n_atoms.log_probs' of shape \(30,\), expected \(29,\)"),
    "NaN": (tensors_with(lambda t: t[EMBED].fill_(float("nan"))), WeightsError, f"found NaN in '{EMBED}'"),
    "lacks a tensor": (tensors_with(lambda t: t.pop(EMBED)), WeightsError, f"no tensor '{EMBED}'"),
    "a tensor more": (tensors_with(lambda t: t.update(x=torch.zeros(1))), WeightsError, "found tensor 'x'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(weights: Path, damage: str) -> None:
    harm, error, message = DAMAGE[damage]
    harm(weights)
    with pytest.raises(error, match=message):
        load(weights)


def test_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no .*nowhere/card\.json .*expected a directory with weights"):
        load(tmp_path / "nowhere")


def test_an_interrupted_save_leaves_the_old_weights(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError("disk full")

    before = load(weights).state_dict()
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tiny().double(), weights, CARD)
    after = load(weights).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("dynamics", [GNNConfig(n_dims=2, node_dim=4), KernelConfig(n_radial=4)], ids=lambda c: c.kind)
def test_a_flow_of_particles_comes_back(tmp_path: Path, dynamics: GNNConfig | KernelConfig) -> None:
    torch.manual_seed(0)
    flow = ParticleFlow(ParticleConfig(n_particles=3, n_dims=2, scale=1.5, dynamics=dynamics))
    save(flow, tmp_path / "particles", CARD)
    again = load_particles(tmp_path / "particles")
    assert again.config == flow.config
    x = torch.randn(2, 3, 2)
    assert torch.equal(again.log_prob(x), flow.log_prob(x))


def test_weights_of_particles_are_no_weights_of_molecules(tmp_path: Path, weights: Path) -> None:
    save(ParticleFlow(ParticleConfig()), tmp_path / "particles", CARD)
    assert isinstance(load(tmp_path / "particles"), ParticleFlow)
    with pytest.raises(WeightsError, match="holds a model of particles, expected one of molecules"):
        load_molecules(tmp_path / "particles")
    with pytest.raises(WeightsError, match="holds a model of molecules, expected one of particles"):
        load_particles(weights)


def test_an_unknown_kind_of_dynamics_names_the_known_ones(weights: Path) -> None:
    edit_card(weights, lambda card: card["config"]["dynamics"].update(kind="newton"))
    with pytest.raises(
        ConfigError,
        match=r"config\.dynamics\.kind is 'newton'; expected one of 'egnn', 'vector_egnn', 'fragment', 'gnn'",
    ):
        load(weights)


def test_bundled_weights_are_found_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"qm9", "dw4", "lj13"} <= set(bundled_names())
    assert all(read_card(name) for name in bundled_names())  # cards of every earlier version
    assert load("qm9").config == read_card(BUNDLED / "qm9").config
    (tmp_path / "qm9").mkdir()  # an empty folder, such as one of results, is no model
    assert find_weights("qm9") == BUNDLED / "qm9"


def test_a_folder_with_a_card_comes_before_bundled_weights(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights.rename(tmp_path / "qm9")
    monkeypatch.chdir(tmp_path)
    assert load("qm9").config == CONFIG


def test_unknown_weights_name_the_bundled_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"found no weights 'qm8', expected .*: dw4, lj13, qm9"):
        load("qm8")


def test_a_device_or_dtype_that_cannot_be_used_is_named(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match="found device 'cuda' and 0 GPUs that PyTorch can use"):
        load(weights, "cuda")
    with pytest.raises(ConfigError, match="found device 'gpu', expected cpu, cuda or cuda:N"):
        load(weights, "gpu")
    with pytest.raises(ConfigError, match=r"found dtype torch\.int64, expected a floating-point"):
        load(weights, dtype=torch.int64)
