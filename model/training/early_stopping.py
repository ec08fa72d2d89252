"""Training with early stopping: a run ends when its validation loss stops improving, and keeps the best weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from enflow.model.training.trainer import Trainer


@dataclass(frozen=True)
class EarlyStopping:
    """The rule that ends a run.

    Attributes:
        steps: greatest number of steps. The learning rate falls to zero along a cosine over these steps.
        checks: number of validations in these steps, evenly spaced.
        patience: number of validations without improvement after which the run ends.
        valid_samples: greatest number of validation samples.
    """

    steps: int = 2000
    checks: int = 20
    patience: int = 6
    valid_samples: int = 1000


class Validation(NamedTuple):
    """The result of one check.

    Attributes:
        step: number of steps so far.
        loss: mean training loss since the previous check.
        valid: validation loss of the averaged network.
    """

    step: int
    loss: float
    valid: float


VALIDATION_SEED = 7


def train_until_stopped(trainer: Trainer, train: Any, valid: Any, rule: EarlyStopping) -> Iterator[Validation]:
    """Train by a rule of early stopping; afterwards `trainer.average` holds the best average found.

    Args:
        trainer: an initialized trainer.
        train: training data.
        valid: validation data.
        rule: the rule.

    Yields:
        The result of every check.
    """
    trainer.anneal = (0, rule.steps)
    drawn = _validation_draws(trainer, valid, rule)
    every = max(1, rule.steps // rule.checks)
    best, best_step = trainer.validate(drawn)["loss"], 0
    best_average = [value.clone() for value in trainer.average]
    losses: list[float] = []
    for values in trainer.steps(train):
        losses.append(float(values["loss"]))
        if trainer.step % every:
            continue
        loss = trainer.validate(drawn)["loss"]
        if loss < best:
            best, best_step, best_average = loss, trainer.step, [value.clone() for value in trainer.average]
        yield Validation(trainer.step, float(np.mean(losses)), loss)
        losses = []
        if trainer.step - best_step >= rule.patience * every:
            break
    trainer.average = best_average


def _validation_draws(trainer: Trainer, valid: Any, rule: EarlyStopping) -> list[Any]:
    """Draw the noise of all checks once, in batches that bound the memory."""
    rows = np.arange(min(rule.valid_samples, len(valid)))
    size = max(256, trainer.config.batch_size)
    parts = np.array_split(rows, -(-len(rows) // size))
    return [
        trainer.objective.draw(trainer.network, valid, part, VALIDATION_SEED, number)
        for number, part in enumerate(parts)
    ]
