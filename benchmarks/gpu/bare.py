"""The preparation of a machine on which Enflow is not installed."""

import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def prepare() -> None:
    """Make `enflow` importable from the checkout, and replace jaxtyping where it is missing."""
    if find_spec("enflow") is None:
        link = Path(tempfile.mkdtemp(prefix="enflow-")) / "enflow"
        link.symlink_to(ROOT, target_is_directory=True)
        sys.path.insert(0, str(link.parent))
    try:
        import_module("jaxtyping")
    except ImportError:
        sys.modules["jaxtyping"] = unchecked_jaxtyping()


class Unchecked:
    """A name of jaxtyping without its shapes: `Float[Tensor, "B N"]` is `Tensor`."""

    def __class_getitem__(cls, annotation: tuple[type, str]) -> type:
        return annotation[0]


def unchecked_jaxtyping() -> ModuleType:
    """Return a module in which every name annotates an array without its shape."""

    def named(name: str) -> type[Unchecked]:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unchecked

    module = ModuleType("jaxtyping")
    module.__getattr__ = named  # type: ignore[method-assign]
    return module
