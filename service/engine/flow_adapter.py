"""The flow adapter: it translates between the requests of the protocol and the tensors of a flow."""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enflow.model.chem.molecule import Molecule, check_vocabulary
from enflow.model.errors import ModelError
from enflow.model.flow.components import FlowComponents
from enflow.model.flow.estimate import Likelihood
from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.likelihood import DrawState
from enflow.model.flow.likelihood_estimator import LikelihoodEstimator
from enflow.model.flow.ode.dense_output import Interpolant
from enflow.model.flow.ode.methods import ADAMS, method_for
from enflow.model.flow.ode.step_control import working_dtype
from enflow.model.flow.ode.tolerances import accuracy
from enflow.model.flow.states import Latent, Perturbation
from enflow.model.flow.velocity import Velocity, pack, unpack
from enflow.service.engine.batch_key import StepKind
from enflow.service.engine.requests import Generation, MoleculeState, RequestState, RowState
from enflow.service.engine.slots import RowStart
from enflow.service.protocol.events import Encoded, Frame, Sampled, Scored
from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineEncodeRequest,
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    EngineVariationRequest,
    LatentArrays,
    Structure,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


KNOWN_ANSWER_BOUND = {"cpu": 2e-4, "cuda": 3e-5}
"""Bounds of the error of the known answer relative to its largest entry. Float32 errs by 4.4e-6, compiled code may
differ by 1e-4 more; TF32, which a GPU could use unasked, errs by 1e-3."""


Start = tuple[RowStart, DrawState | None]
"""The initial value of a row, and for a likelihood the state of its draw."""


class FinishedRow(NamedTuple):
    """The end of a trajectory, as a molecule and as a latent, and the log-density of the base there."""

    structure: Structure
    latent: LatentArrays
    log_prob: float


class FlowAdapter:
    """A flow as the engine uses it. Every method concerns one molecule, or the rows of one batch."""

    def __init__(self, flow: FlowComponents) -> None:
        self._flow = flow
        self.velocity = flow.velocity
        self.fine_velocity = flow.velocity if flow.dtype == torch.float64 else flow.in_double().velocity
        self.device, self.dtype = flow.device, flow.dtype
        self.n_features = flow.config.dynamics.n_features
        self._host_flow = flow if flow.device.type == "cpu" else copy.deepcopy(flow).to("cpu")
        self._vocabulary = np.array(flow.vocabulary.atomic_numbers, dtype=np.int64)
        with torch.inference_mode():
            exact = copy.deepcopy(flow).to("cpu", torch.float64)
            self._known_velocity = _known_answer(exact, exact.velocity)

    def kind(self, request_state: RequestState, number: int) -> StepKind:
        """Return the method of the path of a sample's row, by the number of its rows before.

        It is "fine" if the tolerance asks for more than the precision of the model.
        """
        request, scoring = request_state.request, request_state.scoring
        if scoring is not None:
            tolerance = min(scoring.path_tolerances)
        else:
            assert not isinstance(request, EngineLikelihoodRequest), "it is scored"
            tolerance = accuracy(request_state.refinements_left(number)).factor * min(request.rtol, request.atol)
        if working_dtype(tolerance, self.dtype) != self.dtype:
            return "fine"
        to_noise = scoring is not None or isinstance(request, EngineEncodeRequest)
        method = method_for(1.0, 0.0, tolerance) if to_noise else method_for(0.0, 1.0, tolerance)
        return "adams" if method is ADAMS else "path"

    def n_atoms(self, request: EngineRequest, index: int) -> int:
        """Return the number of atoms of sample `index`.

        Raises:
            ModelError: the model does not know the structure or the size.
        """
        i = index - request.first_index
        match request:
            case EngineSampleRequest():
                size = request.n_atoms[i]
                return size if isinstance(size, int) else self._host_flow.draw_n_atoms(request.seed, index, size)
            case EngineDecodeRequest():
                return len(request.latents[i].x)
            case EngineVariationRequest():
                return self._molecule(request.parent).n_atoms
            case EngineLikelihoodRequest() | EngineEncodeRequest():
                return self._molecule(request.molecules[i]).n_atoms

    def starts(self, rows: Sequence[RowState]) -> list[Start | ModelError]:
        """Return the start of each row, or the reason why it has none; molecules are noised together."""
        found, perturbations = dict[RowState, Start | ModelError](), dict[RowState, Perturbation]()
        for row in rows:
            try:
                if perturbation := self._perturbation(row):
                    perturbations[row] = perturbation
                else:
                    found[row] = self._start(row)
            except ModelError as error:
                found[row] = error
        for row, state in zip(perturbations, self._all_noised(perturbations), strict=True):
            request = row.request_state.request
            assert isinstance(request, EngineSampleRequest | EngineVariationRequest), "others begin without noise"
            found[row] = self._generation(row, request, state), None
        return [found[row] for row in rows]

    def _start(self, row: RowState) -> Start:
        request, i = row.request_state.request, row.index - row.request_state.request.first_index
        match request:
            case EngineLikelihoodRequest():
                return self._scoring(row, request.seed, request.options, request.molecules[i])
            case EngineEncodeRequest():
                molecules = [self._molecule(request.molecules[i])]
                data = self._host_flow.dequantize(molecules, request.seed, [row.index], row.draw)
                return RowStart(data.x[0], data.h[0], 1.0, 0.0, request.rtol, request.atol), None
            case EngineDecodeRequest():
                x, h = (torch.from_numpy(np.asarray(part)) for part in request.latents[i])
                return self._generation(row, request, Latent(x, h)), None
            case EngineSampleRequest():
                return self._generation(row, request, self._drawn(row, request)), None
        raise AssertionError("a variation begins with noise")

    def _generation(self, row: RowState, request: Generation, state: Latent) -> RowStart:
        """Return the initial value of a path to t = 1: of a first pass, a refinement, or from a given state."""
        factor, ending = accuracy(row.refinements_left)
        return RowStart(*state, row.first_t, 1.0, factor * request.rtol, factor * request.atol, ending)

    def _drawn(self, row: RowState, request: EngineSampleRequest) -> Latent:
        drawn = request.seed, row.index, request.formula, request.temperature
        return self._host_flow.draw_latent(row.molecule.n_atoms, *drawn)

    def _perturbation(self, row: RowState) -> Perturbation | None:
        """Return the noise with which a row begins; None for a row that begins with something else."""
        request = row.request_state.request
        if isinstance(request, EngineVariationRequest):
            return Perturbation(self._molecule(request.parent), row.first_t, request.seed, row.index)
        if isinstance(request, EngineSampleRequest) and row.parent is not None:
            noise = request.seed, row.index, row.draw, request.temperature
            return Perturbation(self._molecule(row.parent), row.first_t, *noise)
        return None

    def _all_noised(self, perturbations: Mapping[RowState, Perturbation]) -> list[Latent]:
        return self._host_flow.all_noised(list(perturbations.values()))

    def _scoring(
        self, row: RowState, seed: int, options: EstimatorOptions, structure: Structure
    ) -> tuple[RowStart, DrawState]:
        form = self._flow.canonical_form(self._molecule(structure))
        row.molecule.order = form.order
        point, draw = self._estimator(options).start_draw(form, seed, row.draw)
        return RowStart(point.x, point.h, 1.0, 0.0, *options.path_tolerances), draw

    def _estimator(self, options: EstimatorOptions) -> LikelihoodEstimator:
        return LikelihoodEstimator(self._flow, options)

    def first_draws(self, options: EstimatorOptions) -> int:
        """Return the number of draws that a score begins with."""
        return self._estimator(options).first_draws

    def further_draws(self, request: EngineRequest, molecule: MoleculeState, options: EstimatorOptions) -> int:  # noqa: ARG002
        """Return the number of further draws that a molecule needs for its target error; 0 = it is finished."""
        return self._estimator(options).further_draws(molecule.draws, molecule.n_atoms)

    def scored(self, request: EngineRequest, molecule: MoleculeState, options: EstimatorOptions) -> Scored:
        """Return the likelihood of a molecule from all its draws."""
        found = self.combined(request, molecule, options)
        typical = min(molecule.draws, key=lambda draw: abs(draw.bound - found.parts["n_atoms"] + found.nll))
        atoms = np.empty(molecule.n_atoms)
        atoms[molecule.order] = typical.atoms
        return Scored(
            id=request.id,
            index=molecule.index,
            nll=found.nll,
            std_error=found.std_error,
            parts=found.parts,
            nfe=found.nfe,
            quadrature_error=found.quadrature_error,
            path=tuple(typical.path),
            atoms=tuple(atoms.tolist()),
            draws=found.draws,
        )

    def combined(self, request: EngineRequest, molecule: MoleculeState, options: EstimatorOptions) -> Likelihood:  # noqa: ARG002
        """Return the estimate that all draws of a molecule give together."""
        return self._estimator(options).combine(molecule.draws, molecule.n_atoms)

    def finished_rows(self, rows: Sequence[RowState], x: Tensor, h: Tensor, mask: Tensor) -> list[FinishedRow]:
        """Return the results of rows at the end of their trajectory, (B, N, 3), (B, N, F) and (B, N) on the host."""
        log_prob = self._host_flow.log_prob_base(x, h, mask).tolist()
        numbers, coordinates, _ = self._decode(x, h, mask)
        x_end, h_end = x.double().numpy(), h.double().numpy()
        return [
            FinishedRow(
                Structure(numbers[i, :n], self.placed(row, coordinates[i, :n])),
                LatentArrays(x_end[i, :n], h_end[i, :n]),
                log_prob[i],
            )
            for i, (row, n) in enumerate(zip(rows, mask.sum(1).tolist(), strict=True))
        ]

    def answer(self, row: RowState, end: FinishedRow) -> Encoded | Sampled:
        """Return the answer to a sample whose last row has finished, and that is not scored."""
        of_row, nfe = (row.request_id, row.index), row.molecule.nfe
        if isinstance(row.request_state.request, EngineEncodeRequest):
            return Encoded(*of_row, end.latent, nfe)
        return Sampled(*of_row, *end.structure, nfe, tuple(row.frames))

    def frame(self, step: Interpolant, i: int, t: float, row: RowState) -> Frame:
        """Return the frame of row `i` at a time within its last step."""
        one = step.row(i, row.molecule.n_atoms)
        x, h = (part.cpu() for part in unpack(one.at(one.t0.new_tensor([t]))))
        numbers, positions, features = self._decode(x, h, torch.ones_like(x[..., 0], dtype=torch.bool))
        return Frame(t, row.molecule.nfe + row.nfe, numbers[0], self.placed(row, positions[0]), features[0])

    def placed(self, row: RowState, positions: FloatArray) -> FloatArray:  # noqa: ARG002
        """Return the positions (N, 3) of a row, which are centred, where the caller expects them."""
        return positions

    def evaluate(self, velocity: Velocity, rows: int, size: int) -> None:
        """Evaluate a velocity of random molecules and wait for the device."""
        x = torch.randn(rows, size, 3, dtype=self.dtype, device=self.device)
        h = torch.randn(rows, size, self.n_features, dtype=self.dtype, device=self.device)
        with torch.inference_mode():
            dx, _ = velocity(x.new_full((rows,), 0.5), x, h, torch.ones_like(x[..., 0], dtype=torch.bool))
            float(dx[0, 0, 0])

    def check(self, velocity: Velocity, rows: int = 1) -> bool:
        """Return True if a velocity agrees at a fixed latent with the value that the CPU found in float64.

        Args:
            velocity: the velocity that serves, such as captured graphs.
            rows: the number of equal rows.
        """
        with torch.inference_mode():
            found = _known_answer(self._flow, velocity, rows)
        bound = KNOWN_ANSWER_BOUND.get(self.device.type, 0.0) * float(self._known_velocity.abs().max())
        return bool(torch.allclose(found, self._known_velocity.expand_as(found), rtol=0.0, atol=bound))

    def _decode(self, x: Tensor, h: Tensor, mask: Tensor) -> tuple[IntArray, FloatArray, FloatArray]:
        # Molecule would refuse two atoms at one point, which a frame or a bad sample may have.
        flow = self._host_flow
        if flow.act_norm is not None:
            x, h = flow.act_norm.inverse(x, h, mask)
        types = flow.dequantizer.quantize(h, mask).numpy()
        return self._vocabulary[types], x.double().numpy(), h.double().numpy()

    def _molecule(self, structure: Structure) -> Molecule:
        molecule = Molecule(structure.atomic_numbers, structure.positions)
        check_vocabulary(molecule, self._flow.vocabulary)
        return molecule


def _known_answer(flow: FlowComponents, velocity: Velocity, rows: int = 1) -> Tensor:
    n_atoms = flow.config.max_atoms
    latent = flow.draw_latent(n_atoms, seed=0, index=0)
    x, h = (part.to(flow.device, flow.dtype).expand(rows, *part.shape) for part in latent)
    mask = torch.ones(rows, n_atoms, dtype=torch.bool, device=flow.device)
    return pack(*velocity(x.new_full((rows,), 0.5), x, h, mask)).cpu().double()
