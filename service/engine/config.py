"""The configuration of an engine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from enflow.model.flow.ode.step_control import MAX_STEPS
from enflow.service.engine.batch_key import Lane
from enflow.service.engine.cost_model import SMALL_STEPS

LANES: dict[Lane, float] = {"sample": 1.0, "likelihood": 1.0, "background": 0.05}
"""The lanes and their weights: samples and likelihoods have half of the device each while both have rows. The rows of
jobs share no step with others, and beside one other lane they have a twentieth of the device."""

SIZES = (9, 12, 15, 18, 21, 24, 29)
"""Size classes for QM9: at most two atoms of padding for most molecules."""

CPU_PAIRS, GPU_PAIRS = 4096, 1 << 18
"""Pairs of atoms in one forward pass. On one core 8 molecules of 18 atoms are within a tenth of the lowest cost per
molecule and stay in the cache; 32 molecules cost a third more each (measured). A GPU needs a full batch."""

CPU_SLOTS, GPU_SLOTS = 64, 1024
"""At least the rows of a full step in the smallest size classes."""


@dataclass(frozen=True)
class EngineConfig:
    """The sizes and limits of an engine; the defaults are for a CPU.

    Attributes:
        pairs: the largest rows x size^2 of one forward pass.
        slots: the rows of a batch key that may hold a state on the device.
        sizes: the size classes in atoms, ascending.
        max_steps: attempted solver steps after which a row fails.
        lag: steps that stay in flight while the results of an older step are read; their rows are others.
        small_credit: steps of a molecule of middle size that small requests may take at once before others continue;
            0 = they do not go first.
    """

    pairs: int = CPU_PAIRS
    slots: int = CPU_SLOTS
    sizes: Sequence[int] = SIZES
    max_steps: int = MAX_STEPS
    lag: int = 0
    small_credit: float = 10 * SMALL_STEPS

    @classmethod
    def for_device(cls, device: torch.device) -> Self:
        """Return the configuration for a device; a GPU works on one step while the host reads the step before."""
        return cls(pairs=GPU_PAIRS, slots=GPU_SLOTS, lag=1) if device.type == "cuda" else cls()

    def up_to(self, max_atoms: int) -> Self:
        """Return the configuration with size classes that end at the largest molecule of a model."""
        return replace(self, sizes=(*(size for size in self.sizes if size < max_atoms), max_atoms))

    @property
    def parts(self) -> int:
        """The steps that are in flight at the same time, with different rows."""
        return self.lag + 1

    def step_rows(self, size: int) -> int:
        """Return the largest number of rows of a step in a size class."""
        return max(1, min(self.pairs // size**2, math.ceil(self.slots / self.parts)))

    @property
    def middle_size(self) -> int:
        """The middle size class."""
        return self.sizes[len(self.sizes) // 2]
