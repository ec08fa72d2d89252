"""The original authors' model against the results of their own code, in float64 on a CPU."""

import math
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from enflow.model.batch import collate
from enflow.model.card import Card, Dataset
from enflow.model.checkpoint import import_en_flows, load, save
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import WeightsError
from enflow.model.flow import divergence
from enflow.model.flow.geometry import centre
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.max_likelihood import LikelihoodConfig, Noise, likelihood_terms

TOO_HIGH = 3 * 0.8203667998313904
"""Nats by which the original log-density is too low: its ActNorm counts 3 N positions where 3 (N - 1) is right."""


@pytest.fixture(scope="module")
def flow(shared: Path) -> MoleculeFlow:
    return import_en_flows(shared / "reference" / "en_flows_qm9").double().requires_grad_(False)


@pytest.fixture(scope="module")
def field(shared: Path) -> Mapping[str, np.ndarray]:
    with np.load(shared / "reference" / "vector_field.npz") as file:
        return dict(file)


def state(field: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    xh = torch.from_numpy(field["xh"])
    return xh[..., :3], xh[..., 3:], torch.from_numpy(field["node_mask"][..., 0] > 0)


def reversed_time(field: Mapping[str, np.ndarray], row: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.full((len(field["N"]),), 1.0 - field["t"][row], dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_velocity(flow: MoleculeFlow, field: Mapping[str, np.ndarray], dtype: torch.dtype, tolerance: float) -> None:
    x, h, mask = state(field)
    network = flow if dtype is torch.float64 else flow.to(dtype)
    try:
        for row, reference in enumerate(field["v_f64"]):
            found = torch.cat(network.velocity(reversed_time(field, row, dtype), x.to(dtype), h.to(dtype), mask), -1)
            assert np.abs(found.double().numpy() + reference).max() < tolerance * np.abs(reference).max()
    finally:
        flow.double()


def test_velocity_of_a_batch_is_that_of_its_molecules_alone(
    flow: MoleculeFlow, field: Mapping[str, np.ndarray]
) -> None:
    x, h, mask = state(field)
    t = torch.tensor([0.9, 0.1, 0.5, 0.3], dtype=torch.float64)
    together = torch.cat(flow.velocity(t, x, h, mask), -1)
    for row, n in enumerate(field["N"]):
        one = slice(row, row + 1)
        alone = torch.cat(flow.velocity(t[one], x[one, :n], h[one, :n], mask[one, :n]), -1)
        torch.testing.assert_close(together[row, :n], alone[0], rtol=0, atol=1e-12)
        assert not together[row, n:].any()


def test_velocity_of_padding_alone_is_zero(flow: MoleculeFlow) -> None:
    mask = torch.zeros(1, 3, dtype=torch.bool)
    zeros = torch.zeros(1, 3, 3, dtype=torch.float64), torch.zeros(1, 3, 6, dtype=torch.float64)
    dx, dh = flow.velocity(torch.tensor([0.5], dtype=torch.float64), *zeros, mask)
    assert not dx.any()
    assert not dh.any()


@pytest.mark.parametrize(("row", "molecule"), [(0, 0), (1, 1), (2, 2), (3, 0)])
def test_divergence(flow: MoleculeFlow, field: Mapping[str, np.ndarray], row: int, molecule: int) -> None:
    x, h, mask = state(field)
    n, one = field["N"][molecule], slice(molecule, molecule + 1)
    t = reversed_time(field, row)[one]
    found = divergence.exact(flow.velocity, t, x[one, :n], h[one, :n], mask[one, :n]).item()
    assert found == pytest.approx(-field["div_exact_f64"][row, molecule], abs=1e-8)


def test_act_norm(flow: MoleculeFlow, field: Mapping[str, np.ndarray]) -> None:
    x, h, mask = state(field)
    assert flow.act_norm is not None
    for found, reference in [
        (flow.act_norm(x, h, mask), field["actnorm_fwd_f64"]),
        (flow.act_norm.inverse(x, h, mask), field["actnorm_inv_f64"]),
    ]:
        assert np.abs(torch.cat(found, -1).numpy() - reference).max() < 1e-9
    assert flow.act_norm.ladj(mask).numpy() == pytest.approx(field["actnorm_ldj_f64"] + TOO_HIGH, abs=1e-8)


def test_dequantizer_parameters(flow: MoleculeFlow, field: Mapping[str, np.ndarray]) -> None:
    _, _, mask = state(field)
    types = torch.from_numpy(field["deq_onehot"].argmax(-1))
    found = torch.cat(flow.dequantizer.posterior(types, torch.from_numpy(field["deq_x_in"]), mask), -1)
    assert np.abs(found.numpy() - field["deq_out_mu_logsigma_f64"]).max() < 1e-9


@pytest.fixture(scope="module")
def exact(shared: Path) -> Mapping[str, np.ndarray]:
    with np.load(shared / "reference" / "likelihood_exact.npz") as file:
        return dict(file)


def test_dequantization_with_their_noise(flow: MoleculeFlow, exact: Mapping[str, np.ndarray]) -> None:
    numbers = torch.from_numpy(exact["atomic_numbers"])
    mask = numbers > 0
    types = torch.zeros_like(numbers)
    for k, number in enumerate(flow.config.vocabulary):
        types[numbers == number] = k
    x = torch.from_numpy(exact["positions"])
    h, log_q = flow.dequantizer.dequantize(types, x, mask, torch.from_numpy(exact["deq_eps"]))
    assert log_q.numpy() == pytest.approx(exact["log_q_deq"], abs=1e-6)
    assert flow.act_norm is not None
    seen = torch.cat(flow.act_norm(centre(x, mask), h, mask), -1).numpy()
    assert np.abs(seen - exact["ode_input_f64"]).max() < 1e-6
    assert torch.equal(flow.dequantizer.quantize(h, mask), types)


def test_sizes(flow: MoleculeFlow, exact: Mapping[str, np.ndarray]) -> None:
    found = flow.n_atoms.log_prob(torch.from_numpy(exact["num_atoms"]))
    assert found.numpy() == pytest.approx(exact["log_pN"], abs=1e-4)
    assert flow.n_atoms.log_prob(torch.tensor([28])).item() == pytest.approx(math.log(1e-30), abs=1e-3)


@pytest.fixture
def original(shared: Path, tmp_path: Path) -> Path:
    for name in ("flow.npy", "dequantizer.npy"):
        shutil.copyfile(shared / "reference" / "en_flows_qm9" / name, tmp_path / name)
    return tmp_path


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = torch.load(directory / "flow.npy", map_location="cpu", weights_only=True)
    change(tensors)
    torch.save(tensors, directory / "flow.npy")


def test_saved_as_weights_it_is_the_same_model(shared: Path, original: Path) -> None:
    flow = import_en_flows(original)
    unknown = "unknown"
    card = Card(
        "en_flows", "", "2fd18bf", flow.config, Dataset("QM9", unknown, unknown), seed=0, licence="MIT", metrics={}
    )
    save(flow, original / "out", card)
    again = load(original / "out")
    for name, tensor in flow.state_dict().items():
        assert torch.equal(tensor.float(), again.state_dict()[name]), name


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("executed"),)


def test_the_pickle_beside_them_is_never_opened(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(original)
    harmful, executed = pickle.dumps(Payload()), Path("executed")
    pickle.loads(harmful)
    assert executed.exists()  # opening it would be seen
    executed.unlink()
    (original / "args.pickle").write_bytes(harmful)
    import_en_flows(original)
    assert not executed.exists()


def test_code_in_a_state_dict_is_refused_and_not_executed(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(original)
    torch.save({"a": Payload()}, original / "flow.npy")
    with pytest.raises(WeightsError, match=r"flow\.npy is not a PyTorch state dict"):
        import_en_flows(original)
    assert not Path("executed").exists()


EDGE = "transformations.1.odefunc.dynamics.egnn.gcl_3.edge_mlp.0.weight"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda d: (d / "flow.npy").unlink(), r"no file .*flow\.npy; expected a directory with flow\.npy and deq"),
        (lambda d: (d / "dequantizer.npy").unlink(), r"no file .*dequantizer\.npy"),
        (lambda d: (d / "flow.npy").write_bytes(b"no weights"), r"flow\.npy is not a PyTorch state dict"),
        (lambda d: (d / "flow.npy").write_bytes((d / "flow.npy").read_bytes()[:5000]), "is not a PyTorch state dict"),
        (lambda d: (d / "flow.npy").write_bytes(b""), "is not a PyTorch state dict"),
        (lambda d: torch.save([1, 2], d / "flow.npy"), "found a list, expected a mapping of names to tensors"),
        (lambda d: shutil.copyfile(d / "dequantizer.npy", d / "flow.npy"), "no tensor 'transformations.0.x_log_s'"),
        (lambda d: rewrite(d, lambda t: t.pop(EDGE)), f"no tensor '{EDGE}'"),
        (lambda d: rewrite(d, lambda t: [t.pop(name) for name in list(t) if "gcl_" in name]), r"no layers .*gcl_\*"),
        (lambda d: rewrite(d, lambda t: t.update(extra=torch.zeros(2))), "found tensor 'extra', which"),
        (
            lambda d: rewrite(d, lambda t: t.update({EDGE: t[EDGE][:, :-1]})),
            r"found shape \(64, 63\) for .*layers\.3\.receive",
        ),
    ],
)
def test_a_wrong_directory_is_named(original: Path, harm: Callable[[Path], object], message: str) -> None:
    harm(original)
    with pytest.raises(WeightsError, match=message):
        import_en_flows(original)


def molecules(file: Mapping[str, np.ndarray], rows: Sequence[int]) -> list[Molecule]:
    return [Molecule(file["atomic_numbers"][row, :n], file["positions"][row, :n]) for row, n in sized(file, rows)]


def sized(file: Mapping[str, np.ndarray], rows: Sequence[int]) -> list[tuple[int, int]]:
    return [(row, int(file["num_atoms"][row])) for row in rows]


def with_noise(monkeypatch: pytest.MonkeyPatch, flow: MoleculeFlow, noise: np.ndarray) -> None:
    """Let the dequantizer use the noise that the original drew."""
    given = torch.from_numpy(noise)
    monkeypatch.setattr(flow.dequantizer, "sample_noise", lambda _, mask: given[:, : mask.shape[1]])


@pytest.mark.parametrize("row", [4, 7], ids=["water", "formaldehyde"])
def test_exact_likelihood(
    flow: MoleculeFlow, exact: Mapping[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    (molecule,) = molecules(exact, [row])
    order = flow.canonical_form(molecule).order  # noise is assigned in this order
    with_noise(monkeypatch, flow, exact["deq_eps"][row : row + 1, order])
    (found,) = flow.log_prob([molecule], divergence="exact", draws=1, rtol=1e-6, atol=1e-6)
    parts = {name: -value for name, value in found.parts.items()}
    assert parts["base"] == pytest.approx(exact["log_pz_x"][row] + exact["log_pz_h"][row], abs=0.005)
    reference = exact["ode_trace_integral_exact"][row] + exact["actnorm_ldj"][row]
    assert parts["divergence"] == pytest.approx(reference + TOO_HIGH, abs=0.005)
    assert parts["dequantizer"] == pytest.approx(-exact["log_q_deq"][row], abs=1e-5)
    assert parts["n_atoms"] == pytest.approx(exact["log_pN"][row], abs=1e-4)
    assert found.nll == pytest.approx(exact["nll_exact"][row] - TOO_HIGH, abs=0.005)


def test_latents(flow: MoleculeFlow, exact: Mapping[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    for row, n in sized(exact, [4, 6]):
        with_noise(monkeypatch, flow, exact["deq_eps"][row : row + 1])
        (z,) = flow.encode(molecules(exact, [row]), rtol=1e-8, atol=1e-8)
        assert np.abs(torch.cat(z, -1).numpy() - exact["z_f64"][row, :n]).max() < 1e-5


def test_estimated_likelihood_with_their_probe(flow: MoleculeFlow, shared: Path) -> None:
    # The reference is float32 at a tolerance of 1e-4 for a whole batch; another probe would move it by 40 nats.
    with np.load(shared / "reference" / "likelihood_hutchinson.npz") as file:
        reference = dict(file)
    rows = np.argsort(reference["num_atoms"], kind="stable")[:2]
    n = int(reference["num_atoms"][rows].max())
    batch = collate(molecules(reference, list(rows)), flow.vocabulary, torch.float64)
    noise = Noise(*(torch.from_numpy(reference[name][rows, :n]) for name in ("deq_eps", "probe")))
    found = likelihood_terms(flow, batch, noise, LikelihoodConfig("gaussian", tolerance=1e-4, adjoint=False))
    assert found.nll.tolist() == pytest.approx((reference["nll"][rows] - TOO_HIGH).tolist(), abs=0.7)
