"""The noise of a molecule, by one generator per (seed, index, purpose)."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from enflow.model.config import TEMPERATURES
from enflow.model.errors import ConfigError


def generator(seed: int, index: int | str, purpose: str) -> Generator:
    """Return a CPU generator fixed by the request's seed, the molecule's index or canonical key, and the purpose."""
    digest = hashlib.sha256(f"{seed}/{index}/{purpose}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def normal(shape: tuple[int, ...], source: Generator) -> Tensor:
    """Return standard normal noise, float64 on the CPU, so that dtype and device do not change a molecule."""
    return torch.randn(shape, generator=source, dtype=torch.float64)


def latent_purpose(refinement: int) -> str:
    """Return the purpose of the noise of a molecule's latent (0), or of one of its refinements."""
    return f"refinement:{refinement}" if refinement else "latent"


def check_temperature(temperature: float) -> None:
    """Check the standard deviation of the noise of samples.

    Raises:
        ConfigError: it is out of range.
    """
    least, most = TEMPERATURES
    if not least <= temperature <= most:
        raise ConfigError(f"found temperature {temperature}, expected {least:g} to {most:g}")


def padded_normal(mask: Bool[Tensor, "B N"], width: int, generators: Sequence[Generator]) -> Float[Tensor, "B N W"]:
    """Return standard normal noise for the real atoms of each row; padding is zero.

    The generator draws no numbers for padding, so that the noise of a molecule does not depend on its batch.

    Args:
        mask: True for real atoms.
        width: the number of values per atom, W.
        generators: one generator per row.
    """
    real = mask.cpu()
    if bool(real.all()):
        return torch.stack([normal((mask.shape[1], width), source) for source in generators])
    noise = torch.zeros(*mask.shape, width, dtype=torch.float64)
    for row, atoms, source in zip(noise, real, generators, strict=True):
        row[atoms] = normal((int(atoms.sum()), width), source)
    return noise
