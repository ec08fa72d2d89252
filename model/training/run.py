"""A training run of `enflow train`: a folder with the training state and a log of metrics, resumed exactly."""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from enflow.model.errors import DataError
from enflow.model.training.config import TrainConfig
from enflow.model.training.data.qm9 import MoleculeDataset, batches, data_file, load_qm9
from enflow.model.training.trainer import Trainer, Values, starting_flow

STATE, ANNEALED_STATE, LOG = "state.pt", "annealed.pt", "metrics.jsonl"

VALIDATION_BATCHES = 8
VALIDATION_STEP = 2**40
"""Step number that seeds the noise of the first validation batch; training never gets there."""


def train(
    config: TrainConfig, run: Path, *, resume: bool, anneal: int | None = None, device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """Train, and yield a record of metrics about every ten seconds.

    Annealing takes the state of a run at constant rate, lowers the rate to zero, and writes its state to `annealed.pt`;
    the run itself can be resumed from `state.pt` as before.

    Args:
        config: configuration of the run.
        run: folder of the run, which gets `state.pt` and `metrics.jsonl`.
        resume: continue from the state in the folder.
        anneal: number of molecules of an annealing; None = train at constant rate.
        device: device of the network.

    Raises:
        DataError: the data are missing, there is no state to resume from, or a state would be overwritten.
    """
    trainer = Trainer(config, device)
    source, target = run / STATE, run / (STATE if anneal is None else ANNEALED_STATE)
    if anneal is not None and resume and target.exists():
        source = target
    if resume or anneal is not None:
        if not source.exists():
            raise DataError(f"no {source} to resume from; start the run without --resume")
        trainer.load(source)
    elif source.exists():
        raise DataError(f"{source} exists; continue with --resume, or choose another folder")
    if anneal is not None and trainer.anneal is None:
        trainer.anneal = (trainer.step, max(1, anneal // config.batch_size))
    yield from _run(trainer, config, target)


def _run(trainer: Trainer, config: TrainConfig, state: Path) -> Iterator[dict[str, Any]]:
    path = data_file()
    data = load_qm9(path, "train", config.flow.vocabulary)
    if trainer.step == 0:
        trainer.initialize(data, starting_flow(config))
    drawn = validation_draws(trainer, load_qm9(path, "valid", config.flow.vocabulary))
    metrics, saved = RunningMetrics(trainer), time.monotonic()
    for values in trainer.steps(data):
        metrics.add(values)
        save = time.monotonic() - saved > 60 * config.checkpoint_minutes
        if metrics.due or save:
            record = metrics.read()
            if save:
                record["valid"] = trainer.validate(drawn)
                trainer.save(state)
                saved = time.monotonic()
            yield _log(state.parent, record)
    trainer.save(state)
    yield _log(state.parent, {"step": trainer.step, "passes": trainer.passes, "valid": trainer.validate(drawn)})


class RunningMetrics:
    """The mean losses, speed and time left of the steps since the last reading."""

    SECONDS = 10.0

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._reset()

    def _reset(self) -> None:
        self.window: list[Values] = []
        self.passes, self.since = self.trainer.passes, time.monotonic()

    @property
    def due(self) -> bool:
        """True if the last reading is ten seconds ago."""
        return time.monotonic() - self.since > self.SECONDS

    def add(self, values: Values) -> None:
        """Add the values of one step."""
        self.window.append(values)

    def read(self) -> dict[str, Any]:
        """Return the record of the steps since the last reading, and start a new one."""
        speed = (self.trainer.passes - self.passes) / (time.monotonic() - self.since)
        means = {k: round(_mean([r[k] for r in self.window]), 5) for k in self.window[0]}
        record = {
            "step": self.trainer.step,
            "passes": self.trainer.passes,
            "molecules_per_s": round(speed, 1),
            "seconds_left": round(self.trainer.remaining / speed),
            **means,
        }
        self._reset()
        return record


def _mean(values: list[Tensor | float]) -> float:
    """Return the mean of values that may lie on a GPU, which is waited for once."""
    return float(torch.stack([torch.as_tensor(value) for value in values]).double().mean())


def validation_draws(trainer: Trainer, data: MoleculeDataset) -> list[Any]:
    """Draw the noise of eight batches of validation molecules, the same for every validation of every run.

    The batches are as large as those of training, so that a validation of the likelihood takes as long as eight steps.
    """
    picks = itertools.islice(batches(data.n_atoms, trainer.config.batch_size, seed=1, first_step=0), VALIDATION_BATCHES)
    return [trainer.draw(data, rows, VALIDATION_STEP + number) for number, rows in enumerate(picks)]


def _log(run: Path, record: dict[str, Any]) -> dict[str, Any]:
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOG).open("a") as file:
        file.write(json.dumps(record) + "\n")
    return record
