"""The stages of a run, in their order, and the process that works through them."""

import math
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu import checks
from benchmarks.gpu.context import Context
from benchmarks.gpu.report import Report, Skipped
from benchmarks.gpu.training import sample, train

LOST = 75
"""The exit code of a process whose device is lost: a new process can go on with the next stage."""


GRACE_S = 20.0
"""Seconds in which a stage that watches the time itself must have ended."""


@dataclass(frozen=True)
class Stage:
    """A stage: it returns its findings, and raises an exception if it fails.

    Attributes:
        run: the function.
        limit_s: seconds after which the stage is given up; None = the stage watches the time itself.
    """

    run: Callable[[Context], dict[str, Any]]
    limit_s: float | None = 60.0

    @property
    def name(self) -> str:
        """The name in the report."""
        return self.run.__name__.replace("_", " ")

    def deadline(self, context: Context, since: float) -> float:
        """Return the time of day at which the stage is given up, if it began at `since`."""
        if context.smoke:
            return math.inf
        if self.limit_s is not None:
            return since + self.limit_s
        return (context.training_end if self.run is train else context.start + context.seconds) + GRACE_S


STAGES = (
    Stage(checks.versions),
    Stage(checks.eager_velocity),
    Stage(checks.graph_replay),
    Stage(checks.molecules),
    Stage(checks.likelihoods),
    Stage(checks.training_steps, 150.0),  # compiles
    Stage(checks.profile_of_an_evaluation),
    Stage(checks.many_molecules, 90.0),
    Stage(checks.many_molecules_again, 60.0),
    Stage(checks.refined_molecules),
    Stage(train, None),
    Stage(sample, None),
)

CHECKS_SHARE = 0.55
"""Share of the time after which no check begins, so that training gets the rest."""


def work(context: Context) -> int:
    """Run the stages that the report lacks; return the exit code of the process."""
    signal.signal(signal.SIGTERM, _interrupt)
    torch.set_float32_matmul_precision("highest")  # no TF32: it moves one molecule in 24 to another element
    report = Report.read(context.out)
    for stage in STAGES[len(report.stages) :]:
        report.begin(stage.name)
        outcome, facts, lost = _attempt(stage, context)
        report.end(outcome, facts)
        if lost:
            return LOST
    return int(any(one.outcome == "FAIL" for one in report.stages))


def _attempt(stage: Stage, context: Context) -> tuple[str, dict[str, Any], bool]:
    """Return outcome and findings of a stage, and True if the device is lost."""
    if stage.limit_s is not None and time.time() > context.start + CHECKS_SHARE * context.seconds:
        return "SKIP", {"reason": "no time"}, False
    try:
        return "PASS", stage.run(context), False
    except Skipped as reason:
        return "SKIP", {"reason": str(reason)}, False
    except KeyboardInterrupt:
        return "FAIL", {"reason": "interrupted"}, True
    except Exception as error:  # noqa: BLE001 - a stage must not end the others
        facts = {"reason": f"{type(error).__name__}: {error}"[:2000], "traceback": traceback.format_exc().splitlines()}
        return "FAIL", facts, isinstance(error, torch.AcceleratorError)


def _interrupt(_signal: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the states are being saved
    raise KeyboardInterrupt
