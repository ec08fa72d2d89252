"""The adapter of a FragmentFlow to the engine: rows begin with the atoms of a fragment, which stay where they are."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from enflow.model.chem.molecule import Molecule
from enflow.model.errors import StructureError
from enflow.model.flow.completion import Completion, completion_of, placed, relative_to_fragment
from enflow.model.flow.completion_estimator import CompletionEstimator
from enflow.model.flow.components import FlowComponents
from enflow.model.flow.estimate import Likelihood, combine, further_draws
from enflow.model.flow.estimator_options import EstimatorOptions
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.states import Latent, Perturbation
from enflow.service.engine.flow_adapter import FinishedRow, FloatArray, FlowAdapter, Start
from enflow.service.engine.requests import MoleculeState, RowState
from enflow.service.engine.slots import RowStart
from enflow.service.protocol.requests import (
    EngineLikelihoodRequest,
    EngineRequest,
    EngineSampleRequest,
    LatentArrays,
)


class FragmentAdapter(FlowAdapter):
    """A flow around a fragment as the engine uses it; see `FlowAdapter`."""

    def __init__(self, flow: FragmentFlow) -> None:
        super().__init__(flow)
        assert isinstance(self._host_flow, FragmentFlow), "it is a copy of the flow"
        self._fragments = self._host_flow

    def n_atoms(self, request: EngineRequest, index: int) -> int:
        """Return the number of atoms of sample `index`, the fragment's included.

        Raises:
            ModelError: the model does not know the structure or the size, or there is no fragment.
        """
        if isinstance(request, EngineSampleRequest):
            fragment, size = _fragment(request), request.n_atoms[index - request.first_index]
            return size if isinstance(size, int) else self._fragments.draw_size(fragment, request.seed, index, size)
        return super().n_atoms(request, index)

    def _start(self, row: RowState) -> Start:
        request = row.request_state.request
        if isinstance(request, EngineLikelihoodRequest):
            molecule = self._molecule(request.molecules[row.index - request.first_index])
            row.molecule.order = np.arange(molecule.n_atoms)
            completion, options = Completion(molecule, tuple(range(request.given))), request.options
            point, draw = CompletionEstimator(self._fragments, options).start_draw(
                completion, request.seed, row.index, row.draw
            )
            return RowStart(point.x, point.h, 1.0, 0.0, *options.path_tolerances), draw
        if isinstance(request, EngineSampleRequest):
            return self._generation(row, request, self._drawn(row, request)), None
        raise StructureError("found no fragment, expected one: the model generates the atoms around it")

    def _drawn(self, row: RowState, request: EngineSampleRequest) -> Latent:
        drawn = request.seed, row.index, request.temperature
        return self._fragments.draw_completion(_fragment(request), row.molecule.n_atoms, *drawn)

    def _perturbation(self, row: RowState) -> Perturbation | None:
        return super()._perturbation(row) if isinstance(row.request_state.request, EngineSampleRequest) else None

    def _all_noised(self, perturbations: Mapping[RowState, Perturbation]) -> list[Latent]:
        return [self._noised_completion(row, each) for row, each in perturbations.items()]

    def _noised_completion(self, row: RowState, perturbation: Perturbation) -> Latent:
        request = row.request_state.request
        assert isinstance(request, EngineSampleRequest), "others are not refined"
        completion = completion_of(perturbation.molecule, _fragment(request))
        noise = request.seed, row.index, row.draw, request.temperature
        return self._fragments.noised_completion(completion, row.first_t, *noise)

    def further_draws(self, request: EngineRequest, molecule: MoleculeState, options: EstimatorOptions) -> int:
        """Return the number of further draws that the other atoms need for their target error; 0 = it is finished."""
        return further_draws(molecule.draws, _n_free(request, molecule), options)

    def combined(self, request: EngineRequest, molecule: MoleculeState, options: EstimatorOptions) -> Likelihood:
        """Return the estimate for the other atoms, given the fragment, that all draws of a molecule give together."""
        return combine(molecule.draws, _n_free(request, molecule), 0.0, options.exact)

    def finished_rows(self, rows: Sequence[RowState], x: Tensor, h: Tensor, mask: Tensor) -> list[FinishedRow]:
        """Return the results of rows; the latent of each is relative to its fragment."""
        return [each._replace(latent=_relative(each.latent)) for each in super().finished_rows(rows, x, h, mask)]

    def placed(self, row: RowState, positions: FloatArray) -> FloatArray:
        """Return the positions of a row where its fragment was given."""
        request = row.request_state.request
        if isinstance(request, EngineSampleRequest) and request.fragment is not None:
            return placed(positions, request.fragment.positions)
        return positions


def adapter_of(flow: FlowComponents) -> FlowAdapter:
    """Return the adapter of a flow."""
    return FragmentAdapter(flow) if isinstance(flow, FragmentFlow) else FlowAdapter(flow)


def _n_free(request: EngineRequest, molecule: MoleculeState) -> int:
    """Return the number of atoms that are not given."""
    assert isinstance(request, EngineLikelihoodRequest), "others are not scored"
    return molecule.n_atoms - request.given


def _fragment(request: EngineSampleRequest) -> Molecule:
    if request.fragment is None:
        raise StructureError("found no fragment, expected one: the model generates the atoms around it")
    return Molecule(*request.fragment)


def _relative(latent: LatentArrays) -> LatentArrays:
    x, h = relative_to_fragment(*(torch.from_numpy(part)[None] for part in latent))
    return LatentArrays(x[0].numpy(), h[0].numpy())
