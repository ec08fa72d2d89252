"""The velocity of a flow as machine code of this processor: compiled once, kept in a folder, loaded in milliseconds.

`torch.export` traces the dynamics for any number of molecules and of atoms, and AOTInductor writes C++ in which the
operations on pairs of atoms are fused. Making the code needs a C++ compiler and a minute; loading it needs neither.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from enflow.model.errors import CompileError
from enflow.model.flow.networks.inference_ops import is_inference

CACHE = "ENFLOW_CACHE"
"""The environment variable with the folder of compiled velocities."""

AGREEMENT = 1e-4
"""The largest difference from the eager velocity, relative to its largest value, of code that is used."""

UNFINISHED = "tmp-velocity-"
"""The beginning of the name of a folder in which code is being made."""

LEFTOVER_S = 86_400.0
"""The age in seconds at which nobody works in such a folder any more."""

Arguments = tuple[Tensor, Tensor, Tensor, Tensor]
"""The arguments (t, x, h, mask) of a velocity."""

SPACE = 3
"""The number of dimensions of space."""

DTYPES = (torch.float32, torch.float32, torch.float32, torch.bool)
"""The dtypes of the arguments."""

log = logging.getLogger(__name__)


class CompiledVelocity:
    """The compiled velocity of a flow in float32 on a CPU; it has no derivatives.

    Args:
        dynamics: the dynamics that was compiled.
        path: the shared library that `compile_velocity` wrote.
        n_features: features per atom, F.

    Raises:
        CompileError: the library is damaged.
    """

    def __init__(self, dynamics: nn.Module, path: Path, n_features: int) -> None:
        if not path.stem.endswith(_digest(path.read_bytes())):  # a damaged library can end the process
            raise CompileError(f"{path}: the content does not have the hash in the file's name")
        self.path = path
        self._dynamics, self._n_features = dynamics, n_features
        # A walk over the modules at each evaluation would take as long as half of it.
        parts = [part for each in dynamics.modules() for part in (each._modules, each._parameters, each._buffers)]  # noqa: SLF001
        self._content = [(part, name, value) for part in parts for name, value in part.items()]
        self._weights = [*dynamics.parameters(), *dynamics.buffers()]
        self._versions = self._weight_versions()
        self._library = torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1)  # noqa: SLF001 - imports no compiler

    def fits(self, dynamics: nn.Module, arguments: Arguments) -> bool:
        """Return True if the code computes the velocity of this dynamics at these arguments, without derivatives.

        A dynamics whose weights or modules have changed, in place or by others, is another one.
        """
        rows, atoms = arguments[1].shape[:2]
        shapes = [(rows,), (rows, atoms, SPACE), (rows, atoms, self._n_features), (rows, atoms)]
        return (
            is_inference()
            and rows > 0
            and atoms > 1
            and all(each.is_cpu and each.dtype == dtype for each, dtype in zip(arguments, DTYPES, strict=True))
            and [each.shape for each in arguments] == shapes  # the code does not check them
            and dynamics is self._dynamics
            and all(part.get(name) is value for part, name, value in self._content)
            and self._weight_versions() == self._versions
        )

    def __call__(self, t: Tensor, x: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity (dx (B, N, 3), dh (B, N, F)) at times t (B,), positions x, features h and mask (B, N)."""
        # The code takes contiguous tensors only, and does not check that either.
        dx, dh = self._library.run([each.contiguous() for each in (t, x, h, mask)])
        return dx, dh

    def _weight_versions(self) -> list[tuple[int, int]]:
        return [(each.data_ptr(), each._version) for each in self._weights]  # noqa: SLF001 - counts changes in place

    def __reduce__(self) -> tuple[object, ...]:
        # A copy of a flow may get other weights: it has None here and computes eagerly.
        return type(None), ()


def load_compiled(dynamics: nn.Module, example: Arguments, weights_sha256: str) -> CompiledVelocity | None:
    """Return the compiled velocity of a dynamics with these weights; None if there is none for this machine.

    A library that is damaged, or that computes another velocity, is reported and not used.

    Args:
        dynamics: the dynamics, float32, on a CPU.
        example: arguments at which the code has to agree with the dynamics.
        weights_sha256: the hash of the weights.
    """
    try:
        folder = cache_folder()
    except CompileError:
        return None
    for path in folder.glob(f"{_name(weights_sha256)}-*.so"):
        try:
            found = CompiledVelocity(dynamics, path, example[2].shape[-1])
            if _agree(found, dynamics, example):
                return found
            raise CompileError(f"{path} computes another velocity than the weights")
        except (CompileError, OSError, RuntimeError) as error:
            log.warning("a compiled velocity is not used: %s; `enflow compile` makes it again", error)
    return None


def compile_velocity(dynamics: nn.Module, example: Arguments, weights_sha256: str) -> Path:
    """Compile the velocity of a dynamics, and return the path of the shared library.

    Args:
        dynamics: the dynamics, float32, on a CPU.
        example: arguments (t, x, h, mask) of at least two molecules of at least two atoms.
        weights_sha256: the hash of the weights, which are a part of the library.

    Raises:
        CompileError: there is no C++ compiler, or it failed; or the folder of the code cannot be written.
    """
    if not (compiler := find_compiler()):
        raise CompileError("found no C++ compiler, expected one such as g++ (Debian: apt install g++)")
    folder, name = cache_folder(), _name(weights_sha256)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with FileLock(folder / f"{name}.lock"), tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as place:
            if found := load_compiled(dynamics, example, weights_sha256):  # another process has made it
                return found.path
            made = _compile(dynamics, example, Path(place))
            for old in folder.glob(f"{name}-*.so"):
                old.unlink()
            return made.replace(folder / f"{name}-{_digest(made.read_bytes())}.so")
    except OSError as error:
        where = "" if error.filename in (None, str(folder)) else f" ({error.filename})"
        raise CompileError(
            f"cannot write the compiled velocity into {folder}{where}: {error.strerror or error}; "
            f"expected a folder that can be written, which {CACHE} names"
        ) from None
    except (RuntimeError, ValueError, subprocess.SubprocessError) as error:
        raise CompileError(f"{compiler} did not compile the velocity in {folder}: {error!s:.300}") from None


def find_compiler() -> str | None:
    """Return the path of the C++ compiler that AOTInductor calls; None if there is none."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))


def cache_folder() -> Path:
    """Return the folder of compiled velocities: $ENFLOW_CACHE, or the folder enflow among the user's caches.

    Raises:
        CompileError: neither is known, since the user has no home.
    """
    if given := os.environ.get(CACHE):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enflow"
    except RuntimeError:
        raise CompileError(f"found no home folder of the user, expected one or a folder in {CACHE}") from None


def _compile(dynamics: nn.Module, example: Arguments, place: Path) -> Path:
    from torch._inductor import aot_compile  # takes seconds, and loading a library needs nothing of it

    atoms, rows = torch.export.Dim("atoms", min=2), torch.export.Dim("rows", min=1)
    shapes = ({0: rows}, {0: rows, 1: atoms}, {0: rows, 1: atoms}, {0: rows, 1: atoms})
    options = {"aot_inductor.output_path": str(place / "velocity.so"), "compile_threads": 1, "cpp.threads": 1}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.export.export(dynamics, example, dynamic_shapes=shapes, strict=False)
        return Path(str(aot_compile(program.module(), example, options=options)))


def _remove_leftovers(folder: Path) -> None:
    """Remove what a compilation that was killed long ago has left."""
    for place in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):  # another process removes it, too
            if time.time() - place.stat().st_mtime > LEFTOVER_S:
                shutil.rmtree(place)


def _agree(velocity: CompiledVelocity, dynamics: nn.Module, example: Arguments) -> bool:
    with torch.no_grad():
        pairs = zip(velocity(*example), dynamics(*example), strict=True)
        return all(torch.allclose(a, b, rtol=0.0, atol=AGREEMENT * float(b.abs().max())) for a, b in pairs if b.numel())


def _name(weights_sha256: str) -> str:
    machine = f"{torch.__version__} {sys.platform} {platform.machine()} {_processor_flags()}"
    return f"velocity-{weights_sha256[:16]}-{_digest(machine.encode() + _source())}"


def _source() -> bytes:
    """Return the source of the networks, since compiled code of another version may compute something else."""
    folder = Path(__file__).parent
    return b"".join(path.read_bytes() for path in (folder / "dynamics.py", *sorted(folder.glob("networks/*.py"))))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _processor_flags() -> str:
    """Return the instruction sets of this processor: the code uses all of them."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else [platform.processor()]
    return next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
