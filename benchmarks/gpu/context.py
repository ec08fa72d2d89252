"""The arguments of the command, and the model and data that its stages share."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.errors import DataError
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.config import TrainConfig, read_config
from enflow.model.training.data.qm9 import MoleculeDataset, data_file, load_qm9
from enflow.model.training.trainer import Trainer

SAMPLING_SHARE = 0.13
"""Share of the time that is left for samples after the training."""

SMOKE_TRAINING_S = 3.0


@dataclass
class Context:
    """The arguments of the command.

    Attributes:
        seconds: the time of the whole run.
        start: the time of day at which it began.
        device: "cuda", or "cpu" for tests.
        smoke: a few molecules and seconds, for tests.
        out: folder of the results.
        weights: folder of the weights that are checked.
        run: folder with `config.json` and `state.pt`, from which the training goes on.
        references: file that `benchmarks.gpu.references` wrote.
    """

    seconds: float
    start: float
    device: str
    smoke: bool
    out: Path
    weights: Path
    run: Path
    references: Path

    @property
    def samples(self) -> int:
        """The number of molecules of a large request."""
        return 4 if self.smoke else 10_000

    @property
    def rows(self) -> int:
        """The number of rows of 18 atoms in a timed evaluation; it fills a GPU."""
        return 2 if self.smoke else 512

    @property
    def training_end(self) -> float:
        """The time of day at which training must end."""
        end = self.start + (1 - SAMPLING_SHARE) * self.seconds
        return min(end, time.time() + SMOKE_TRAINING_S) if self.smoke else end

    @property
    def scratch(self) -> Path:
        """A folder beside the results for what only later stages read; the run removes it at its end."""
        folder = self.out / "scratch"
        folder.mkdir(exist_ok=True)
        return folder

    @cached_property
    def flow(self) -> MoleculeFlow:
        """The flow that is checked."""
        return load(self.weights, self.device)

    @cached_property
    def known(self) -> Mapping[str, np.ndarray]:
        """The references, by name.

        Raises:
            DataError: they are missing, or belong to other weights.
        """
        if not self.references.exists():
            raise DataError(f"no {self.references}; make it by python -m benchmarks.gpu.references")
        with np.load(self.references, allow_pickle=False) as file:
            known = {name: file[name] for name in file.files}
        self._check("weights", str(known["weights_sha256"]), read_card(self.weights).weights_sha256)
        return known

    def check_state(self) -> None:
        """Compare the state of the run with the one that the references are of.

        Raises:
            DataError: it is another.
        """
        self._check("state", str(self.known["state_sha256"]), sha256_of_state(self.run))

    def _check(self, what: str, found: str, expected: str) -> None:
        if found != expected:
            raise DataError(
                f"{self.references}: found references of {what} {found:.12}, expected {expected:.12}; "
                f"make them anew by python -m benchmarks.gpu.references"
            )

    @cached_property
    def config(self) -> TrainConfig:
        """The configuration of the run."""
        return read_config(self.run / "config.json")

    @cached_property
    def data(self) -> MoleculeDataset:
        """The training molecules."""
        return load_qm9(data_file(), "train", self.config.flow.vocabulary)

    def trainer(self) -> Trainer:
        """Return the training at the state of the run."""
        trainer = Trainer(self.config, self.device)
        trainer.load(self.run / "state.pt")
        return trainer

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def sha256_of_state(run: Path) -> str:
    """Return the hash of a run's state."""
    return hashlib.sha256((run / "state.pt").read_bytes()).hexdigest()
