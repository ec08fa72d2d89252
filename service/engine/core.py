"""The engine: it owns the device, takes works, steps their molecules together and tells what becomes of them.

Pure and synchronous: `add`, then `step` until `Done`. Molecules join and leave between steps; a step is one attempt of
the stepper, or some values of the divergence along a path, for rows that may share a forward.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from enflow.model.checkpoint import load_any
from enflow.model.errors import ModelError
from enflow.model.flow.likelihood import DrawState, evaluate_queries
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.ode.dopri5 import MAX_STEPS, SolverState, Status
from enflow.service.engine.batch_key import BatchKey, Lane
from enflow.service.engine.cost_model import BatchBudget, CostTable
from enflow.service.engine.flow_adapter import FinishedRow, FlowAdapter
from enflow.service.engine.requests import MoleculeState, RequestState, RequestTable, RowState
from enflow.service.engine.runner import ModelRunner
from enflow.service.engine.scheduler import Scheduler
from enflow.service.engine.slots import InFlightStep, RowStart
from enflow.service.protocol.events import Done, Encoded, Event, Failed, Progress, Reason, Sampled, Scored
from enflow.service.protocol.requests import EngineEncodeRequest, EngineRequest
from enflow.service.protocol.status import Snapshot, Stats

LANES: dict[Lane, float] = {"sample": 1.0, "likelihood": 1.0}
"""Each gets half of the device while both have work."""

SIZES = (9, 12, 15, 18, 21, 24, 29)
"""Classes of QM9's sizes: at most two atoms of padding where most molecules are."""

CPU_PAIRS, GPU_PAIRS = 4096, 1 << 18
"""Pairs of atoms in one forward. On a core, 8 molecules of 18 atoms are within a tenth of the best cost per molecule
and stay in its cache (measured: 32 cost a third more each); a GPU wants to be filled."""

HEAD_START = 40
"""Steps of a molecule of middle size that a new work may take before older ones go on: enough for two at any tolerance,
or a dozen small ones."""

CPU_SLOTS, GPU_SLOTS = 64, 1024
"""At least the room of a step for the small sizes."""


class Engine:
    """Continuous batching of molecules on one device.

    Args:
        flow: the model, on its device.
        pairs: rows x size^2 of one forward; None = by the kind of device.
        slots: rows of a size class that may be half-way at once; None = by the kind of device.
        sizes: the size classes; the model's largest molecule closes them.
        max_steps: attempts after which a row is given up.
        clock: the time of day, for deadlines.
        lag: steps launched before the flags of one are read; None = 1 on a GPU, which then never waits for the host.
        head_start: steps of a molecule that a new work may take before older ones go on; 0 = all works are alike.
    """

    def __init__(
        self,
        flow: MoleculeFlow,
        *,
        pairs: int | None = None,
        slots: int | None = None,
        sizes: Sequence[int] = SIZES,
        max_steps: int = MAX_STEPS,
        clock: Callable[[], float] = time.time,
        lag: int | None = None,
        head_start: float = HEAD_START,
    ) -> None:
        self._translator = FlowAdapter(flow)
        on_gpu = self._translator.device.type == "cuda"
        pairs = pairs or (GPU_PAIRS if on_gpu else CPU_PAIRS)
        slots = slots or (GPU_SLOTS if on_gpu else CPU_SLOTS)
        sizes = (*(size for size in sizes if size < flow.config.max_atoms), flow.config.max_atoms)
        costs = CostTable.profile(self._translator.evaluate, sizes, lambda size: max(1, pairs // size**2))
        self._budget = BatchBudget(pairs, self._translator.n_features, costs)
        lag = int(on_gpu) if lag is None else lag
        self._fleet = ModelRunner(self._translator, list(LANES), sizes, slots, max_steps, lag)
        budget, middle = self._budget, BatchKey("sample", "path", sizes[len(sizes) // 2])
        self._scheduler: Scheduler[RowState] = Scheduler(
            LANES, budget.room, slots, head_start * budget.cost(middle), budget.brief
        )
        self._clock, self._slots = clock, slots
        self._register = RequestTable()

    def add(self, work: EngineRequest, answered: Collection[int] = ()) -> None:
        """Take a work, but for the molecules already answered.

        Raises:
            ValueError: a work of that id is here.
        """
        job = self._register.enter(work, answered)
        for molecule in list(job.molecules.values()):
            self._enlist(job, molecule)
        self._register.close_if_done(job)

    def step(self) -> list[Event]:
        """Sweep deadlines, let one batch of rows step, and tell what has happened since the last call."""
        for work in self._scheduler.expired(self._clock()):
            self._end(work, Reason.DEADLINE, "the deadline passed before the molecule was finished")
        started = time.perf_counter()
        with torch.inference_mode():
            batch = self._scheduler.batch()
            expected = sum(row.cost for row in batch)
            if batch:
                self._go(batch)
            for rows, flight in self._fleet.landed(all_of_them=not batch):
                self._land(rows, flight)
        if batch:
            self._register.tally.step(len(batch), time.perf_counter() - started, expected)
        return self._register.told()

    def abort(self, work: str) -> None:
        """Stop a work wherever it stands: its molecules fail as cancelled; nothing happens if it has just ended."""
        self._end(work, Reason.CANCELLED, "the request was cancelled")

    @property
    def idle(self) -> bool:
        """Nothing to step and nothing to tell."""
        return self._register.idle

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._translator.device

    @property
    def rate(self) -> float:
        """Pairs of atoms times evaluations in a second, as measured at the start and of late."""
        return self._budget.costs.rate * self._register.tally.pace

    def check(self) -> bool:
        """Whether the device still computes a known answer."""
        return self._translator.check()

    def snapshot(self) -> Snapshot:
        """What it takes to go on elsewhere. Paths of likelihoods are not kept: they go on from their seed."""
        with torch.inference_mode():
            for rows, flight in self._fleet.landed(all_of_them=True):  # frames are taken when a step lands
                self._land(rows, flight)
            half_way = [row for row in self._scheduler.rows() if row.score is None]
            return Snapshot(tuple(self._register.works), self._fleet.save(half_way))

    def restore(self, snapshot: Snapshot) -> None:
        """Take the works of a snapshot and go on where it stood."""
        for work, answered in snapshot.works:
            self.add(work, answered)
        for row in self._scheduler.rows() if snapshot.rows else ():
            row.saved = snapshot.rows.get(row.key, row.saved)

    def stats(self) -> Stats:
        """What is going on, and what has been done since the start."""
        return self._register.tally.stats(
            waiting=self._scheduler.waiting,
            running=self._scheduler.running,
            slots=self._slots,
            works=len(self._register),
            device=self._translator.device,
        )

    def close(self) -> None:
        """Forget all work and let go of the device's memory."""
        self._register.clear()
        del self._fleet

    # Coming

    def _enlist(self, job: RequestState, molecule: MoleculeState) -> None:
        try:
            molecule.n_atoms = self._translator.n_atoms(job.work, molecule.index)
            size = self._budget.costs.size(molecule.n_atoms)
        except (ModelError, ValueError) as error:
            self._fail(job, molecule, Reason.STRUCTURE, str(error))
            return
        draws = self._translator.first_draws(job.scoring) if job.scoring and job.lane == "likelihood" else 1
        self._add_rows(job, molecule, BatchKey(job.lane, self._translator.kind(job, job.lane), size), draws)

    def _add_rows(self, job: RequestState, molecule: MoleculeState, group: BatchKey, draws: int) -> None:
        rows = [
            RowState(
                work=job.work.id,
                index=molecule.index,
                draw=draw,
                lane=group.lane,
                group=group,
                cost=self._budget.cost(group),
                job=job,
                molecule=molecule,
            )
            for draw in range(len(molecule.draws), len(molecule.draws) + draws)
        ]
        molecule.rows += rows
        self._scheduler.add(job.work.id, rows, job.work.deadline)

    # Stepping

    def _go(self, batch: list[RowState]) -> None:
        for row in batch:
            row.job.began = row.job.began or time.perf_counter()
        launch = self._launch if batch[0].group.moves else self._integrate
        while batch and (trouble := _trouble(launch, batch)):
            # Only here, outside the except block, are the tensors of the failed attempt free.
            if trouble[0] == Reason.MEMORY:
                self._budget.halve()
                self._fleet.shrink()
            if len(batch) == 1:
                self._fail(batch[0].job, batch[0].molecule, *trouble)
            batch = [row for row in batch[: len(batch) // 2] if row.state != "finished"]

    def _launch(self, batch: list[RowState]) -> None:
        fresh = [row for row in batch if row.slot is None and row.saved is None]
        starts = {row: start for row in fresh if (start := self._start(row))}
        if rows := [row for row in batch if row.state != "finished"]:
            self._fleet.launch(rows, starts)

    def _start(self, row: RowState) -> RowStart | None:
        try:
            start, row.score = self._translator.start(row)
        except ModelError as error:
            self._fail(row.job, row.molecule, Reason.STRUCTURE, str(error))
            return None
        return start

    def _land(self, rows: list[RowState], flight: InFlightStep) -> None:
        flags = flight.flags()
        arrived = []
        for i, row in enumerate(rows):
            if row.slot is None:  # aborted, or arrived while this flight was under way
                continue
            row.t, row.nfe = flags.t[i], flags.nfe[i]
            if flags.accepted[i]:
                self._passed(row, flight, i)
            status = Status(flags.status[i])
            if status == Status.SUCCESS:
                arrived.append((i, row))
            elif status != Status.RUNNING:
                detail = f"the solver stopped at t = {row.t:.4g}: {status.name}"
                self._fail(row.job, row.molecule, Reason(status.name.lower()), detail)
        if arrived:
            self._arrive([row for _, row in arrived], flight.step.state, [i for i, _ in arrived])

    def _passed(self, row: RowState, flight: InFlightStep, i: int) -> None:
        if row.score is not None:
            row.score.record(flight.step.interpolant, i, row.molecule.n_atoms)
        due = [t for t in row.job.frame_times[len(row.frames) :] if t <= row.t] if row.lane == "sample" else []
        for t in due:
            row.frames.append(self._translator.frame(flight.step.interpolant, i, t, row))
        if row.job.work.progress:
            self._register.tell(Progress(row.work, row.index, row.t, row.nfe, row.frames[-1] if due else None))

    # Arriving

    def _arrive(self, rows: list[RowState], state: SolverState, positions: list[int]) -> None:
        for row, end in zip(rows, self._translator.ends(state, positions), strict=True):
            self._fleet.vacate(row)
            row.molecule.nfe += row.nfe
            if row.score is not None:
                x, h = (torch.from_numpy(part) for part in end.latent)
                row.score.finish_path(end.log_prob, x, h)
                self._measure(row, row.score)
            elif isinstance(row.job.work, EngineEncodeRequest):
                encoded = Encoded(row.work, row.index, end.latent, row.molecule.nfe, "success")
                self._answer(row.job, row.molecule, encoded)
            else:
                self._sampled(row, end)

    def _sampled(self, row: RowState, end: FinishedRow) -> None:
        molecule, scoring = row.molecule, row.job.scoring
        frames = tuple(row.frames)
        numbers, positions = end.structure
        molecule.sampled = Sampled(row.work, row.index, numbers, positions, molecule.nfe, "success", frames)
        if scoring is None:
            self._answer(row.job, molecule, molecule.sampled)
        else:
            self._scheduler.finish(row)
            kind, draws = self._translator.kind(row.job, "likelihood"), self._translator.first_draws(scoring)
            self._add_rows(row.job, molecule, BatchKey("likelihood", kind, row.group.size), draws)

    def _measure(self, row: RowState, score: DrawState) -> None:
        group = BatchKey("likelihood", "exact" if score.probes is None else "hutchinson", row.group.size)
        values = min(self._budget.values(group), score.open)
        self._scheduler.move(row, "likelihood", group, self._budget.cost(group, values))

    def _integrate(self, batch: list[RowState]) -> None:
        limit = max(1, self._budget.values(batch[0].group) // len(batch))
        scores = [row.score for row in batch if row.score is not None]
        asked = [score.queries(limit) for score in scores]
        queries = [query for each in asked for query in each]
        values = iter(evaluate_queries(self._translator.velocity, queries, self._translator.dtype))
        for row, score, each in zip(batch, scores, asked, strict=True):
            score.answer(list(islice(values, len(each))))
            if not score.open and row.state != "finished":
                self._drawn(row, score)

    def _drawn(self, row: RowState, score: DrawState) -> None:
        molecule, options = row.molecule, row.job.scoring
        assert options is not None, "a draw belongs to a request that is scored"
        molecule.draws.append(score.result(row.nfe))
        self._scheduler.finish(row)
        if any(each.state != "finished" for each in molecule.rows):
            return
        if more := self._translator.further_draws(molecule, options):
            kind = self._translator.kind(row.job, "likelihood")
            self._add_rows(row.job, molecule, BatchKey("likelihood", kind, row.group.size), more)
            return
        scored = self._translator.scored(row.job.work, molecule, options)
        if not math.isfinite(scored.nll):
            self._fail(row.job, molecule, Reason.NON_FINITE, f"the likelihood is {scored.nll}")
        else:
            self._answer(
                row.job, molecule, replace(molecule.sampled, likelihood=scored) if molecule.sampled else scored
            )

    # Leaving

    def _answer(self, job: RequestState, molecule: MoleculeState, event: Sampled | Scored | Encoded | Failed) -> None:
        for row in molecule.rows:
            self._fleet.vacate(row)
            if row.state != "finished":
                self._scheduler.finish(row)
        self._register.answer(job, molecule, event)

    def _fail(self, job: RequestState, molecule: MoleculeState, reason: Reason, detail: str) -> None:
        # A molecule that stands, but could not be scored, is an answer.
        self._answer(job, molecule, molecule.sampled or Failed(job.work.id, molecule.index, reason, detail))

    def _end(self, work: str, reason: Reason, detail: str) -> None:
        if job := self._register.job(work):
            for molecule in list(job.molecules.values()):
                self._fail(job, molecule, reason, detail)


def from_weights(weights: str, device: str = "auto", threads: int | None = None) -> Engine:
    """An engine with the weights of a directory, on "cpu", "cuda" or what there is ("auto"); threads of its arithmetic.

    Raises:
        WeightsError: the weights are missing or damaged.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return Engine(load_any(weights, device=where))


def run(engine: Engine, work: EngineRequest) -> Iterator[Event]:
    """Drive an engine in this thread until a work has ended: its events, `Done` last."""
    engine.add(work)
    while True:
        for event in engine.step():
            if event.id == work.id:
                yield event
                if isinstance(event, Done):
                    return


def _trouble(launch: Callable[[list[RowState]], None], batch: list[RowState]) -> tuple[Reason, str] | None:
    try:
        launch(batch)
    except torch.AcceleratorError:  # the device itself is lost: a new worker must begin
        raise
    except Exception as error:  # noqa: BLE001 - one molecule must not take the others with it
        # The CPU's allocator has no exception of its own.
        memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        return Reason.MEMORY if memory else Reason.ENGINE, f"{type(error).__name__}: {error}"
    return None
