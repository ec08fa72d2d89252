"""Checks of the arguments that the methods of all flows share: seeds, numbers of molecules, and sizes."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

from enflow.model.config import MAX_SEED
from enflow.model.errors import ConfigError


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


def checked_sizes(n_atoms: Any, n: int = 1) -> list[int | str | None]:
    """Return the number of atoms, or the formula, of one molecule or of several as a list.

    Args:
        n_atoms: one size, or one for each molecule.
        n: the number of molecules that one size is for.

    Raises:
        ConfigError: one is no integer, no text and not None.
    """
    several = isinstance(n_atoms, Iterable) and not isinstance(n_atoms, str)
    sizes = list(n_atoms) if several else [n_atoms] * n
    for each in sizes:
        if not (each is None or isinstance(each, str) or _is_integer(each)):
            raise ConfigError(f"found n_atoms {each!r}, expected an integer, a formula or None for each molecule")
    return [int(each) if _is_integer(each) else each for each in sizes]


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
