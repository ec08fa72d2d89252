"""Between the words of a work and the tensors of the flow."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from enflow.model.chem.molecule import Molecule, check_vocabulary
from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.likelihood import DrawState, Terms, path_tolerance
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode import dopri5
from enflow.model.flow.ode.dense_output import Interpolant
from enflow.model.flow.ode.dopri5 import SolverState
from enflow.model.flow.velocity import pack, unpack
from enflow.service.engine.batch_key import Lane, StepKind
from enflow.service.engine.requests import MoleculeState as Pending
from enflow.service.engine.requests import RequestState, RowState
from enflow.service.engine.slots import RowStart
from enflow.service.protocol.events import Frame, Scored
from enflow.service.protocol.requests import (
    EngineDecodeRequest,
    EngineEncodeRequest,
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    LatentArrays,
    Structure,
)

Numbers = NDArray[np.int64]
Reals = NDArray[np.float64]


class FinishedRow(NamedTuple):
    """Where a row has come out: as a molecule, as a latent, and the base's log-density there."""

    structure: Structure
    latent: LatentArrays
    log_prob: float


class FlowAdapter:
    """The flow as the engine uses it; everything here concerns one molecule, or the rows of one batch."""

    def __init__(self, flow: MoleculeFlow) -> None:
        self._flow = flow
        self.velocity = flow.velocity
        self.fine_velocity = flow.velocity if flow.dtype == torch.float64 else flow.in_double().velocity
        self.device, self.dtype = flow.device, flow.dtype
        self.n_features = flow.config.dynamics.n_features
        self._vocabulary = np.array(flow.vocabulary.atomic_numbers, dtype=np.int64)
        with torch.inference_mode():
            self._known = _velocity(copy.deepcopy(flow).to("cpu", torch.float64))

    def kind(self, job: RequestState, lane: Lane) -> StepKind:
        """How rows of a job move in a lane: along paths that the model's arithmetic can follow, or in double."""
        if lane == "likelihood" and job.scoring is not None:
            tolerance = path_tolerance(min(job.scoring.rtol, job.scoring.atol), job.scoring.exact)
        else:
            assert not isinstance(job.work, EngineLikelihoodRequest), "it is scored"
            tolerance = min(job.work.rtol, job.work.atol)
        return "path" if dopri5.arithmetic(tolerance, self.dtype) == self.dtype else "fine"

    def n_atoms(self, work: EngineRequest, index: int) -> int:
        """How many atoms molecule `index` of a work has.

        Raises:
            ModelError: a structure, or a size, that the model does not know.
        """
        i = index - work.first_index
        match work:
            case EngineSampleRequest():
                return work.n_atoms[i] or self._flow.draw_n_atoms(work.seed, index)
            case EngineDecodeRequest():
                return len(work.latents[i].x)
            case EngineLikelihoodRequest() | EngineEncodeRequest():
                return self._molecule(work.molecules[i]).n_atoms

    def start(self, row: RowState) -> tuple[RowStart, DrawState | None]:
        """Where a row sets out, and for a likelihood what is known before its path.

        Raises:
            ModelError: a structure that the model cannot take.
        """
        work, i = row.job.work, row.index - row.job.work.first_index
        match work:
            case EngineLikelihoodRequest():
                return self._scoring(row, work.seed, work.options, work.molecules[i])
            case EngineSampleRequest() if row.molecule.sampled is not None and work.nll is not None:
                sampled = Structure(row.molecule.sampled.atomic_numbers, row.molecule.sampled.positions)
                return self._scoring(row, work.seed, work.nll, sampled)
            case EngineSampleRequest():
                x, h = self._flow.draw_latent(row.molecule.n_atoms, work.seed, row.index, work.formula)
            case EngineDecodeRequest():
                x, h = (torch.from_numpy(np.asarray(part)) for part in work.latents[i])
            case EngineEncodeRequest():
                lifted = self._flow.lift([self._molecule(work.molecules[i])], work.seed, [row.index], row.draw)
                return RowStart(lifted.x[0], lifted.h[0], 1.0, 0.0, work.rtol, work.atol), None
        return RowStart(x, h, 0.0, 1.0, work.rtol, work.atol), None

    def _scoring(
        self, row: RowState, seed: int, options: EstimatorOptions, structure: Structure
    ) -> tuple[RowStart, DrawState]:
        form = self._flow.canonical_form(self._molecule(structure))
        row.molecule.order = form.order
        ((point, *terms),) = self._flow.lift([form.molecule], seed, [form.key], row.draw).rows()
        rtol, atol = (path_tolerance(each, options.exact) for each in (options.rtol, options.atol))
        draw = self._flow.start_draw(form, seed, row.draw, options, Terms(*terms))
        return RowStart(point.x, point.h, 1.0, 0.0, rtol, atol), draw

    def first_draws(self, options: EstimatorOptions) -> int:
        """Return the number of draws that a score begins with."""
        return self._flow.first_draws(options)

    def further_draws(self, molecule: Pending, options: EstimatorOptions) -> int:
        """Return how many more draws a molecule needs for its target error; 0 = it is finished."""
        return self._flow.further_draws(molecule.draws, molecule.n_atoms, options)

    def scored(self, work: EngineRequest, molecule: Pending, options: EstimatorOptions) -> Scored:
        """Return the score that the draws of a molecule give together."""
        found = self._flow.combine(molecule.draws, molecule.n_atoms, options)
        typical = min(molecule.draws, key=lambda draw: abs(draw.bound - found.parts["n_atoms"] + found.nll))
        atoms = np.empty(molecule.n_atoms)
        atoms[molecule.order] = typical.atoms
        return Scored(
            id=work.id,
            index=molecule.index,
            nll=found.nll,
            std_error=found.std_error,
            parts=found.parts,
            nfe=found.nfe,
            status="success",
            quadrature_error=found.quadrature_error,
            path=tuple(typical.path),
            atoms=tuple(atoms.tolist()),
            draws=found.draws,
        )

    def ends(self, state: SolverState, positions: list[int]) -> list[FinishedRow]:
        """Where these rows of a state stand."""
        rows = dopri5.select(state, torch.tensor(positions, device=self.device))
        log_prob = self._flow.log_prob_base(rows.x, rows.h, rows.mask).tolist()
        x, h, counts = rows.x.cpu().double().numpy(), rows.h.cpu().double().numpy(), rows.mask.sum(1).tolist()
        shown = self._reveal(rows.x, rows.h, rows.mask)
        return [
            FinishedRow(Structure(numbers[:n], spots[:n]), LatentArrays(x[i, :n], h[i, :n]), log_prob[i])
            for i, (n, numbers, spots) in enumerate(zip(counts, *shown[:2], strict=True))
        ]

    def frame(self, step: Interpolant, i: int, t: float, row: RowState) -> Frame:
        """What a row looks like at a time within its step."""
        here = step.row(i, row.molecule.n_atoms)
        x, h = unpack(here.at(here.t0.new_tensor([t])))
        numbers, positions, features = self._reveal(x, h, torch.ones_like(x[..., 0], dtype=torch.bool))
        return Frame(t, row.nfe, numbers[0], positions[0], features[0])

    def evaluate(self, rows: int, size: int) -> None:
        """Evaluate the velocity of any molecules of that size, and wait for it."""
        x = torch.randn(rows, size, 3, dtype=self.dtype, device=self.device)
        h = torch.randn(rows, size, self.n_features, dtype=self.dtype, device=self.device)
        with torch.inference_mode():
            dx, _ = self.velocity(x.new_full((rows,), 0.5), x, h, torch.ones_like(x[..., 0], dtype=torch.bool))
            float(dx[0, 0, 0])

    def check(self) -> bool:
        """Whether the device computes what the CPU did at start, in float64: the velocity of a fixed latent."""
        with torch.inference_mode():
            found = _velocity(self._flow)
        return bool(torch.allclose(found, self._known, rtol=1e-2, atol=1e-3 * float(self._known.abs().max())))

    def _reveal(self, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Numbers, Reals, Reals]:
        # Not by Molecule: on the way, and in a bad sample, two atoms may stand at one point.
        if self._flow.act_norm is not None:
            x, h = self._flow.act_norm.inverse(x, h, mask)
        types = self._flow.dequantizer.quantize(h, mask).cpu().numpy()
        return self._vocabulary[types], x.double().cpu().numpy(), h.double().cpu().numpy()

    def _molecule(self, structure: Structure) -> Molecule:
        molecule = Molecule(structure.atomic_numbers, structure.positions)
        check_vocabulary(molecule, self._flow.vocabulary)
        return molecule


def _velocity(flow: MoleculeFlow) -> Tensor:
    n_atoms = flow.config.max_atoms
    x, h = (part.to(flow.device, flow.dtype)[None] for part in flow.draw_latent(n_atoms, seed=0, index=0))
    mask = torch.ones(1, n_atoms, dtype=torch.bool, device=flow.device)
    return pack(*flow.velocity(x.new_full((1,), 0.5), x, h, mask)).cpu().double()
