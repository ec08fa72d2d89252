"""Noise belongs to a molecule: one generator per (seed, index, purpose)."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor


def generator(seed: int, index: int | str, purpose: str) -> Generator:
    """Return a CPU generator fixed by the request's seed, the molecule's index or canonical key, and the purpose."""
    digest = hashlib.sha256(f"{seed}/{index}/{purpose}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def normal(shape: tuple[int, ...], source: Generator) -> Tensor:
    """Standard normal noise, float64 on the CPU, so that dtype and device do not change a molecule."""
    return torch.randn(shape, generator=source, dtype=torch.float64)


def padded_normal(mask: Bool[Tensor, "B N"], width: int, generators: Sequence[Generator]) -> Float[Tensor, "B N W"]:
    """Standard normal noise, row after row from a molecule's own generator, for its real atoms only.

    Padding is zero and takes no draw: the noise of a molecule does not depend on its company.
    """
    noise = torch.zeros(*mask.shape, width, dtype=torch.float64)
    for row, real, source in zip(noise, mask.cpu(), generators, strict=True):
        row[real] = normal((int(real.sum()), width), source)
    return noise
