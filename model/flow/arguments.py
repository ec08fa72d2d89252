"""Checks of the arguments that the methods of all flows share: seeds, numbers of molecules, and sizes."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any, NamedTuple

from enflow.model.config import MAX_SEED
from enflow.model.errors import ConfigError


class SizeRange(NamedTuple):
    """A range of numbers of atoms, both ends included, from which the size of a molecule is drawn by p(N)."""

    low: int
    high: int


def checked_seed(seed: Any) -> int:
    """Return a seed as an int.

    Raises:
        ConfigError: it is no integer, or out of range.
    """
    if not _is_integer(seed) or not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"found seed {seed!r}, expected an integer from 0 to {MAX_SEED}")
    return int(seed)


def checked_count(n: Any) -> int:
    """Return a number of molecules as an int.

    Raises:
        ConfigError: it is no integer of at least 1.
    """
    if not _is_integer(n) or n < 1:
        raise ConfigError(f"found n = {n!r}, expected an integer of at least 1")
    return int(n)


def checked_sizes(n_atoms: Any, n: int = 1) -> list[int | str | SizeRange | None]:
    """Return the number of atoms, or its range, or the formula, of one molecule or of several as a list.

    Args:
        n_atoms: one size, or one for each molecule.
        n: the number of molecules that one size is for.

    Raises:
        ConfigError: one is no integer, no range, no text and not None.
    """
    several = isinstance(n_atoms, Iterable) and not isinstance(n_atoms, str | SizeRange)
    return [_checked_size(each) for each in (n_atoms if several else [n_atoms] * n)]


def _checked_size(size: Any) -> int | str | SizeRange | None:
    if size is None or isinstance(size, str):
        return size
    if _is_integer(size):
        return int(size)
    if isinstance(size, tuple) and len(size) == 2 and all(map(_is_integer, size)) and size[0] <= size[1]:
        return SizeRange(*map(int, size))
    raise ConfigError(
        f"found n_atoms {size!r}, expected an integer, a formula, a range (least, largest) or None for each molecule"
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
