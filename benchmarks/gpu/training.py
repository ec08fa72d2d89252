"""Training for a given time: workers couple the noise, the rate falls to zero before the end, states are saved."""

import io
import math
import os
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.gpu.context import Context
from benchmarks.gpu.parts import has_parts, read_parts, write_parts
from enflow.model.files import replacement
from enflow.model.flow.states import Sample
from enflow.model.training.compact import compacted
from enflow.model.training.config import TrainConfig
from enflow.model.training.data.qm9 import MoleculeDataset, batch_plan, data_file, load_qm9
from enflow.model.training.export import flow_of
from enflow.model.training.flow_matching import CoupledPairs
from enflow.model.training.objectives import FlowMatching
from enflow.model.training.run import RunningMetrics, validation_draws
from enflow.model.training.trainer import Trainer, compiled

STATE, ANNEALED, SAMPLES = "state", "annealed", "samples.npz"

ANNEAL_SHARE = 0.4
"""Share of the training time in which the rate falls to zero."""

SAVE_S = 30.0
MOST_WORKERS = 12
WORKER_TIMEOUT_S = 30.0
LAST_STEP = 2**31

BLOCK = 1_000
"""Molecules that are generated between two looks at the clock; every block has all sizes."""

Drawn = tuple[CoupledPairs, Tensor]


class Steps(Dataset[tuple[Tensor, Tensor]]):
    """The coupled noise and molecules of each step, by the number of the step, for workers of a `DataLoader`.

    An item has two tensors, so that few are copied: x0, x1, h0, h1 and the centres side by side, (B, N, 6 + 3 F), and
    the times.
    """

    def __init__(self, config: TrainConfig, data: MoleculeDataset) -> None:
        self.config, self.data = config, data
        self.objective = FlowMatching(config.flow, config.matching, "cpu")
        self._plan: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    @cached_property
    def per_epoch(self) -> int:
        """The number of steps of an epoch."""
        return len(self._epoch(0))

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(step, self.per_epoch)
        rows = self._epoch(epoch)[place]
        pairs, times = self.objective.draw(None, self.data, rows, self.config.seed, step)
        return torch.cat([pairs.x0, pairs.x1, pairs.h0, pairs.h1, pairs.centres], -1), times

    def _epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        if self._plan[0] != epoch:
            self._plan = epoch, batch_plan(self.data.n_atoms, self.config.batch_size, self.config.seed, epoch)
        return self._plan[1]


def drawn_ahead(config: TrainConfig, data: MoleculeDataset, first_step: int, device: str) -> Iterator[Drawn]:
    """Yield the noise of each step on the device, as `Trainer.draw` returns it; the copies do not wait."""
    n_features = config.flow.dynamics.n_features
    workers = min(MOST_WORKERS, (os.cpu_count() or 1) - 2) if device != "cpu" else 0
    for packed, times in coupled_by_workers(Steps(config, data), first_step, workers):
        parts = packed.to(device, non_blocking=True).split([3, 3, *[n_features] * 3], -1)
        x0, x1, h0, h1, centres = (part.contiguous() for part in parts)
        mask = torch.ones(x0.shape[:2], dtype=torch.bool, device=device)
        yield CoupledPairs(x0, x1, h0, h1, centres, mask), times.to(device, non_blocking=True)


def coupled_by_workers(steps: Steps, first_step: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the items from `first_step` on, pinned; where the workers fail or hang, this process goes on alone."""
    step = first_step
    if workers > 0:
        loader = DataLoader(
            steps, batch_size=None, sampler=range(first_step, LAST_STEP), num_workers=workers, prefetch_factor=8,
            pin_memory=torch.cuda.is_available(), timeout=WORKER_TIMEOUT_S,
        )  # fmt: skip
        try:
            for item in loader:
                yield item
                step += 1
        except RuntimeError as error:
            print(f"the coupling workers failed at step {step}: {error}", flush=True)
    for number in range(step, LAST_STEP):
        yield steps[number]


def train(context: Context) -> dict[str, Any]:
    """Train until the time has come, save the state before the annealing as `state` and the last one as `annealed`."""
    torch._dynamo.config.suppress_errors = True  # noqa: SLF001 - what does not compile runs eagerly
    trainer, end, begin = context.trainer(), context.training_end, time.time()
    held_out = load_qm9(data_file(), "valid", context.config.flow.vocabulary)
    fixed = validation_draws(trainer, held_out)
    valid, first = {"before": trainer.validate(fixed)}, trainer.passes
    training = Training(context, trainer)
    training.until(end - ANNEAL_SHARE * (end - begin), STATE)
    valid["constant rate"] = trainer.validate(fixed)
    constant = trainer.passes
    training.until(end, ANNEALED, anneal=True)
    valid["annealed"] = trainer.validate(fixed)
    return {
        "passes": trainer.passes - first,
        "annealed": trainer.passes - constant,
        "molecules_per_s": round(training.speed, 1),
        "rate_at_end": training.rate,
        "compiled_graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],  # noqa: SLF001
        "valid": valid,
        "log": training.log,
    }


class Training:
    """A training that is told until when to go on.

    Attributes:
        log: a record about every ten seconds.
        speed: molecules per second of the latest record.
        rate: share of the learning rate in the latest step.
    """

    def __init__(self, context: Context, trainer: Trainer) -> None:
        self.trainer, self.folder = trainer, context.out
        self.network = compiled(trainer.network, trainer.config)
        self.drawn = drawn_ahead(trainer.config, context.data, trainer.step, context.device)
        self.metrics = RunningMetrics(trainer)
        self.log: list[dict[str, Any]] = []
        self.speed, self.rate = math.nan, 1.0

    def until(self, end: float, name: str, anneal: bool = False) -> None:
        """Take steps until a time of day, at least one, and save the state under a name, also when interrupted."""
        saved = time.time()
        if anneal:
            self.trainer.anneal = (self.trainer.step, self._steps_until(end))
        try:
            while True:
                self._step()
                now = time.time()
                if now > end:
                    break
                if self.metrics.due:
                    self._record()
                    self.trainer.anneal = stretched(self.trainer.anneal, self.trainer.step, self._steps_until(end))
                if now - saved > SAVE_S:
                    save(self.trainer, self.folder, name)
                    saved = now
            self._record()
        finally:
            save(self.trainer, self.folder, name)

    def _step(self) -> None:
        drawn = next(self.drawn)
        values = self.trainer.update(self.network, drawn, len(drawn[1]))
        self.metrics.add(values)
        self.rate = float(values["rate"])

    def _record(self) -> None:
        record = self.metrics.read()
        self.speed = record["molecules_per_s"]
        self.log.append(record)

    def _steps_until(self, end: float) -> int:
        speed = self.speed if self.speed > 0 else 1.0
        return max(1, round(speed * (end - time.time()) / self.trainer.config.batch_size))


def stretched(anneal: tuple[int, int] | None, step: int, left: int) -> tuple[int, int] | None:
    """Return the annealing that goes on at the same share of the rate and ends in `left` steps; see `rate_at`."""
    if anneal is None:
        return None
    first, steps = anneal
    phase = (step - first) / steps
    if phase >= 1.0:
        return anneal
    total = max(1, round(left / (1.0 - phase)))
    return step - round(phase * total), total


def save(trainer: Trainer, folder: Path, name: str) -> None:
    """Write the state of a training in parts, in compact form."""
    content = io.BytesIO()
    torch.save(compacted(trainer.state()), content)
    write_parts(folder, name, content.getvalue())


def load_state(trainer: Trainer, folder: Path, name: str) -> None:
    """Restore the state that `save` wrote."""
    trainer.restore(io.BytesIO(read_parts(folder, name)), f"{folder / name}")


def sample(context: Context) -> dict[str, Any]:
    """Generate molecules with the averaged weights of the last state, and save them as they come."""
    trainer = Trainer(context.config, context.device)
    load_state(trainer, context.out, ANNEALED if (annealed := has_parts(context.out, ANNEALED)) else STATE)
    flow = flow_of(trainer, context.data).to(context.device)
    begin, sizes, found = time.time(), list[int](), list[Sample]()
    end = math.inf if context.smoke else context.start + context.seconds
    for first in range(0, context.samples, BLOCK):
        block = time.time()
        indices = range(first, min(first + BLOCK, context.samples))
        sizes += [flow.draw_n_atoms(0, index) for index in indices]
        found += sorted(flow.samples(sizes[first:], seed=0, indices=indices, refinements=0), key=lambda one: one.index)
        write_samples(context.out / SAMPLES, sizes, found)
        if 2 * time.time() - block > end:  # another block would take as long
            break
    failed = sum(one.molecule is None for one in found)
    per_s = round(len(found) / (time.time() - begin), 1)
    return {"samples": len(found), "failed": failed, "per_s": per_s, "annealed": annealed}


def write_samples(path: Path, sizes: list[int], samples: list[Sample]) -> None:
    """Write samples of seed 0 and the sizes that were asked for, by index; a failed sample has no atoms."""
    molecules = [one.molecule for one in samples]
    numbers = [m.atomic_numbers for m in molecules if m is not None]
    positions = [m.positions for m in molecules if m is not None]
    with replacement(path) as file:
        np.savez(
            file,
            seed=0,
            n_atoms=np.array(sizes, np.uint8),
            n_found=np.array([0 if m is None else m.n_atoms for m in molecules], np.uint8),
            atomic_numbers=np.concatenate([np.empty(0, np.uint8), *numbers]).astype(np.uint8),
            positions=np.concatenate([np.empty((0, 3)), *positions]).astype(np.float32),
            nfe=np.array([one.nfe for one in samples], np.int32),
            status=np.array([one.status for one in samples], np.uint8),
        )
