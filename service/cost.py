"""What an evaluation costs, by size of molecule, measured on the device at start."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class CostTable:
    """Seconds of one evaluation of the velocity per molecule, for molecules padded to each of `sizes`, in a full step;
    and the seconds that an evaluation takes however few molecules there are."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    overhead: float = 0.0

    @classmethod
    def profile(cls, evaluate: Callable[[int, int], None], sizes: Sequence[int], room: Callable[[int], int]) -> Self:
        """Time `evaluate(rows, size)` at every size, as many rows as a step would hold; it must wait for the device.

        The best of three: the first pays for allocation, and others may use the machine.
        """
        rows = {size: room(size) for size in sizes}
        best = {size: min(_seconds(evaluate, rows[size], size) for _ in range(3)) for size in sizes}
        overhead = min(_seconds(evaluate, 1, sizes[0]) for _ in range(5))
        return cls(tuple(sizes), tuple(best[size] / rows[size] for size in sizes), overhead)

    def size(self, n_atoms: int) -> int:
        """The size class of a molecule.

        Raises:
            ValueError: larger than any class.
        """
        for size in self.sizes:
            if n_atoms <= size:
                return size
        raise ValueError(f"found {n_atoms} atoms, expected at most {self.sizes[-1]}")

    def evaluation(self, size: int) -> float:
        """Seconds of one evaluation of a molecule of this class."""
        return self.seconds[self.sizes.index(size)]

    def rows(self, size: int, share: float) -> int:
        """How many molecules make the overhead that share of their evaluation."""
        return max(1, int((1 / share - 1) * self.overhead / self.evaluation(size)))

    @property
    def rate(self) -> float:
        """Pairs of atoms times evaluations in a second, at the middle of the classes."""
        middle = len(self.sizes) // 2
        return self.sizes[middle] ** 2 / self.seconds[middle]


def _seconds(evaluate: Callable[[int, int], None], rows: int, size: int) -> float:
    start = time.perf_counter()
    evaluate(rows, size)
    return time.perf_counter() - start
