"""The options --where and --n-atoms: bounds of the properties of a molecule, and of its size."""

import re
from collections.abc import Sequence

from enflow.model.chem.analysis.descriptors import Bounds
from enflow.model.errors import ConfigError

_BOUND = re.compile(r"(?P<name>[a-z_]+)=(?:(?P<flag>true|false)|(?P<low>[^:]*):(?P<high>[^:]*))")

_SIZES = re.compile(r"(\d{1,9})(?::(\d{1,9}))?", re.ASCII)


def parse_where(texts: Sequence[str]) -> dict[str, Bounds | bool]:
    """Return the bounds of properties by name.

    Args:
        texts: NAME=LOWER:UPPER each, where a bound may be left out; or novel=true.

    Raises:
        ConfigError: a text has another form, or a property stands twice.
    """
    found: dict[str, Bounds | bool] = {}
    for text in texts:
        name, wanted = _parse(text)
        if name in found:
            raise ConfigError(f"found --where {name}=... twice; expected it once, such as {name}=1:2")
        found[name] = wanted
    return found


def parse_sizes(text: str) -> int | dict[str, int]:
    """Return a number of atoms, or a range of it as a request has it.

    Args:
        text: N or MIN:MAX.

    Raises:
        ConfigError: a text of another form, no positive number, or a range that descends.
    """
    found = _SIZES.fullmatch(text)
    sizes = [int(each) for each in found.groups() if each] if found else []
    if not sizes or sizes[0] < 1 or sizes != sorted(sizes):
        raise ConfigError(f"found --n-atoms {text}; expected a number of atoms, such as 12, or a range, such as 10:14")
    return {"min": sizes[0], "max": sizes[1]} if len(sizes) > 1 else sizes[0]


def _parse(text: str) -> tuple[str, Bounds | bool]:
    found = _BOUND.fullmatch(text)
    try:
        if found and found["flag"]:
            return found["name"], found["flag"] == "true"
        if found:
            return found["name"], (_number(found["low"]), _number(found["high"]))
    except ValueError:
        pass
    raise ConfigError(f"found --where {text}; expected NAME=LOWER:UPPER, such as qed=0.5: or rings=1:2, or novel=true")


def _number(text: str) -> float | None:
    return float(text) if text else None
