"""The engine: continuous batching of molecules on one device.

The engine is synchronous. `add` takes a request, every `step` runs one batch of rows and returns events, and `Done` is
the last event of a request. A step is some attempts of the solver, or some values of the divergence along finished
trajectories. Rows join and leave the batch between two steps.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from itertools import chain, islice

import torch

from enflow.model.errors import ModelError
from enflow.model.flow.components import FlowComponents
from enflow.model.flow.likelihood import DrawState, evaluate_queries
from enflow.model.flow.ode.solver_state import Status
from enflow.model.flow.ode.step_control import Step
from enflow.service.engine.batch_key import BatchKey
from enflow.service.engine.compilation import BackgroundCompilation
from enflow.service.engine.config import LANES, EngineConfig
from enflow.service.engine.cost_model import BatchBudget, CostTable
from enflow.service.engine.failures import EngineObserver, NoObserver, attempt
from enflow.service.engine.fragment_adapter import adapter_of
from enflow.service.engine.requests import MoleculeState, RequestState, RequestTable, RowState, new_rows
from enflow.service.engine.runner import ModelRunner
from enflow.service.engine.scheduler import Scheduler
from enflow.service.engine.slots import InFlightStep, RowStart
from enflow.service.protocol.events import Event, Failed, Progress, Reason, SampleEvent
from enflow.service.protocol.requests import EngineRequest
from enflow.service.protocol.status import SampleKey, Snapshot, Stats


class Engine:
    """Continuous batching of molecules on one device.

    Args:
        flow: the model, on its device.
        config: sizes and limits; None = the configuration for the device.
        clock: the time of day in seconds, for deadlines.
    """

    def __init__(
        self, flow: FlowComponents, config: EngineConfig | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        torch.set_float32_matmul_precision("highest")  # TF32 moves one molecule in 24 to another element
        self._adapter = adapter_of(flow)
        self._config = (config or EngineConfig.for_device(flow.device)).up_to(flow.config.max_atoms)
        self._runner = ModelRunner(self._adapter, self._config)
        costs = CostTable.profile(self._runner.evaluate, self._config.sizes, self._config.step_rows)
        self._budget = BatchBudget(self._config.pairs, self._adapter.n_features, costs)
        credit = self._config.small_credit * self._budget.cost(BatchKey("sample", "adams", self._config.middle_size))
        limits = self._budget.max_rows, self._config.slots, credit, self._budget.short_step_rows, self._config.parts
        self._scheduler: Scheduler[RowState] = Scheduler(LANES, *limits, self._budget.step_cost)
        self._requests, self._clock = RequestTable(), clock
        self.observer: EngineObserver = NoObserver()
        self.compilation: BackgroundCompilation | None = None

    def add(
        self, request: EngineRequest, answered: Collection[int] = (), isolation: Mapping[SampleKey, int] | None = None
    ) -> None:
        """Add a request without the samples that are answered already.

        Args:
            request: the request.
            answered: the indices of the answered samples.
            isolation: the group of each sample; samples of different groups share no step. None = one group.

        Raises:
            ValueError: a request with this id was added before.
        """
        request_state = self._requests.add(request, answered)
        for molecule in list(request_state.molecules.values()):
            molecule.isolation = (isolation or {}).get((request.id, molecule.index), 0)
            self._admit(request_state, molecule)
        self._requests.close_if_done(request_state)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Run one step for one batch of rows and return the events since the last call."""
        self._fail_expired()
        batch = self._scheduler.schedule()
        with self._requests.stats.measure(len(batch), sum(row.cost for row in batch)):
            self._run(batch)
            for rows, step in self._runner.collect(everything=not batch):
                self._postprocess(rows, step)
        return self._requests.take_events()

    def abort(self, request_id: str) -> None:
        """Fail the unfinished samples of a request as cancelled; do nothing if the request has ended."""
        self._fail_request(request_id, Reason.CANCELLED, "the request was cancelled")

    @property
    def idle(self) -> bool:
        """True if there is no request and no event."""
        return self._requests.idle

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self._adapter.device

    @property
    def graphs(self) -> int:
        """The number of captured CUDA graphs; 0 where the velocity is computed eagerly."""
        return self._runner.graphs

    @property
    def rate(self) -> float:
        """Pairs of atoms times evaluations per second, from the cost table and the recent steps."""
        return self._budget.costs.rate * self._requests.stats.relative_speed

    def check(self) -> bool:
        """Return True if the device computes a known answer."""
        return self._adapter.check(self._runner.velocity, self._runner.check_rows)

    @torch.inference_mode()
    def snapshot(self) -> Snapshot:
        """Return the state from which another engine can continue.

        The trajectory of a likelihood and a refinement are not saved; such a sample starts again from its seed.
        """
        for rows, step in self._runner.collect(everything=True):  # a step gives its frames when it is collected
            self._postprocess(rows, step)
        rows = [row for row in self._scheduler.rows() if row.draw_state is None and not row.begun]
        return Snapshot(tuple(self._requests.unfinished()), self._runner.save(rows))

    def restore(self, snapshot: Snapshot) -> None:
        """Add the requests of a snapshot and continue from the saved rows."""
        for request, answered in snapshot.requests:
            self.add(request, answered, snapshot.isolation)
        for row in self._scheduler.rows() if snapshot.rows else ():
            row.saved = snapshot.rows.get(row.key, row.saved)

    def stats(self) -> Stats:
        """Return the current state and the counters since the start."""
        return self._requests.stats_now(self._scheduler.occupied, self._config.slots, self.device)

    def close(self) -> None:
        """Remove all requests and free the memory of the device."""
        self._requests.clear()
        del self._runner

    # Schedule

    def _admit(self, request_state: RequestState, molecule: MoleculeState) -> None:
        try:
            molecule.n_atoms = self._adapter.n_atoms(request_state.request, molecule.index)
            size = self._budget.costs.size(molecule.n_atoms)
        except (ModelError, ValueError) as error:
            self._fail(request_state, molecule, Reason.STRUCTURE, str(error))
            return
        scoring = request_state.scoring
        self._add_rows(request_state, molecule, size, self._adapter.first_draws(scoring) if scoring else 1)

    def _add_rows(self, request_state: RequestState, molecule: MoleculeState, size: int, draws: int) -> None:
        lane = request_state.lane
        key = BatchKey(lane, self._adapter.kind(request_state, len(molecule.rows)), size)
        rows = new_rows(request_state, molecule, key, draws, self._budget.cost(key))
        molecule.rows += rows
        request, work = request_state.request, request_state.work / self._budget.costs.rate
        self._scheduler.add(request.id, rows, request.deadline, work=work, small=request_state.small)

    # Run

    def _run(self, batch: list[RowState]) -> None:
        """Submit a step for the batch; after an error try again with half of it, so that only one sample can fail."""
        for row in batch:
            row.request_state.started = row.request_state.started or time.perf_counter()
        submit = self._submit if batch and batch[0].batch_key.moves else self._evaluate_divergences
        self.observer.step_begins([row.key for row in [*self._runner.rows_in_flight(), *batch]])
        while batch and (failure := attempt(submit, batch)):
            # The tensors of the failed attempt are free only here, outside the except block.
            self.observer.step_failed([row.key for row in batch], failure.trace)
            if failure.reason == Reason.MEMORY:
                self._free_memory()
            if len(batch) == 1:
                self._fail(batch[0].request_state, batch[0].molecule, failure.reason, failure.detail)
            batch = [row for row in batch[: len(batch) // 2] if row.state != "finished"]
        if batch:
            self._budget.record_success()

    def _free_memory(self) -> None:
        self._requests.stats.memory_errors += 1
        self._budget.halve()
        self._runner.free_memory()

    def _submit(self, batch: list[RowState]) -> None:
        new = [row for row in batch if row.slot is None and row.saved is None]
        starts = dict[RowState, RowStart]()
        for row, found in zip(new, self._adapter.starts(new), strict=True):
            if isinstance(found, ModelError):
                self._fail(row.request_state, row.molecule, Reason.STRUCTURE, str(found))
            else:
                starts[row], row.draw_state = found
        if rows := [row for row in batch if row.state != "finished"]:
            self._runner.submit(rows, starts)

    # Postprocess

    def _postprocess(self, rows: list[RowState], step: InFlightStep) -> None:
        flags, finished = step.flags(), list[tuple[int, RowState]]()
        for i, row in enumerate(rows):
            if row.slot is None:  # aborted or finished after this step was submitted
                continue
            for each, result in zip(flags, step.attempts, strict=True):
                if each.accepted[i]:
                    row.t, row.nfe = each.t[i], each.nfe[i]
                    self._accept(row, result, i)
            row.t, row.nfe = flags[-1].t[i], flags[-1].nfe[i]
            status = Status(flags[-1].status[i])
            if status == Status.SUCCESS:
                finished.append((i, row))
            elif status != Status.RUNNING:
                detail = f"the solver stopped at t = {row.t:.4g}: {status.name}"
                self._fail(row.request_state, row.molecule, Reason(status.name.lower()), detail)
        if finished:
            self._finish_paths([row for _, row in finished], step.rows([i for i, _ in finished]))

    def _accept(self, row: RowState, result: Step, i: int) -> None:
        if row.draw_state is not None:
            row.draw_state.record(result.interpolant, i, row.molecule.n_atoms)
        passed = [t for t in row.request_state.frame_times[len(row.frames) :] if t <= row.t]
        for t in passed:
            row.frames.append(self._adapter.frame(result.interpolant, i, t, row))
        if row.request_state.request.progress:
            nfe = row.molecule.nfe + row.nfe
            frame = row.frames[-1] if passed else None
            self._requests.emit(Progress(row.request_id, row.index, row.t, nfe, row.share, frame))

    def _finish_paths(self, rows: list[RowState], ends: tuple[torch.Tensor, ...]) -> None:
        for row, end in zip(rows, self._adapter.finished_rows(rows, *ends), strict=True):
            self._runner.release(row)
            row.molecule.nfe += row.nfe
            if row.draw_state is not None:
                x, h = (torch.from_numpy(part) for part in end.latent)
                row.draw_state.finish_path(end.log_prob, x, h)
                self._start_divergence(row, row.draw_state)
            elif row.refinements_left:
                self._add_rows(row.request_state, row.molecule, row.batch_key.size, 1)
                row.molecule.rows[-1].refine(row, end.structure)
                self._scheduler.finish(row)  # last: a request keeps its place while it has rows
            else:
                self._answer(row.request_state, row.molecule, self._adapter.answer(row, end))

    def _start_divergence(self, row: RowState, draw: DrawState) -> None:
        key = row.batch_key._replace(kind="exact" if draw.probes is None else "hutchinson")
        self._scheduler.move(row, key.lane, key, self._budget.cost(key, draw.open))

    def _evaluate_divergences(self, batch: list[RowState]) -> None:
        limit = max(1, self._budget.values(batch[0].batch_key) // len(batch))
        draws = [row.draw_state for row in batch if row.draw_state is not None]
        asked = [draw.queries(limit) for draw in draws]
        values = iter(evaluate_queries(self._adapter.velocity, list(chain(*asked)), self._adapter.dtype))
        for row, draw, each in zip(batch, draws, asked, strict=True):
            draw.answer(list(islice(values, len(each))))
            row.cost = self._budget.cost(row.batch_key, draw.open)
            if not draw.open and row.state != "finished":
                self._finish_draw(row, draw)

    def _finish_draw(self, row: RowState, draw: DrawState) -> None:
        molecule, options, request = row.molecule, row.request_state.scoring, row.request_state.request
        assert options is not None, "a draw belongs to a request that is scored"
        molecule.draws.append(draw.result(row.nfe))
        unfinished = sum(each.state != "finished" for each in molecule.rows) > 1
        if more := 0 if unfinished else self._adapter.further_draws(request, molecule, options):
            self._add_rows(row.request_state, molecule, row.batch_key.size, more)
        self._scheduler.finish(row)  # last: a request keeps its place while it has rows
        if unfinished or more:
            return
        scored = self._adapter.scored(request, molecule, options)
        if not math.isfinite(scored.nll):
            self._fail(row.request_state, molecule, Reason.NON_FINITE, f"the likelihood is {scored.nll}")
        else:
            self._answer(row.request_state, molecule, scored)

    # Finish

    def _answer(self, request_state: RequestState, molecule: MoleculeState, event: SampleEvent) -> None:
        for row in molecule.rows:
            self._runner.release(row)
            if row.state != "finished":
                self._scheduler.finish(row)
        self._requests.answer(request_state, molecule, event)

    def _fail(self, request_state: RequestState, molecule: MoleculeState, reason: Reason, detail: str) -> None:
        self._answer(request_state, molecule, Failed(request_state.request.id, molecule.index, reason, detail))

    def _fail_request(self, request_id: str, reason: Reason, detail: str) -> None:
        if request_state := self._requests.get(request_id):
            for molecule in list(request_state.molecules.values()):
                self._fail(request_state, molecule, reason, detail)

    def _fail_expired(self) -> None:
        for request_id in self._scheduler.expired(self._clock()):
            self._fail_request(request_id, Reason.DEADLINE, "the deadline passed before the molecule was finished")
