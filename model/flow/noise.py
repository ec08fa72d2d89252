"""Noise belongs to a molecule: one generator per (seed, index, purpose)."""

import hashlib

import torch
from torch import Generator, Tensor


def generator(seed: int, index: int, purpose: str) -> Generator:
    """A CPU generator fixed by the request's seed, the molecule's index in it and the purpose of the draw."""
    digest = hashlib.sha256(f"{seed}/{index}/{purpose}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def normal(shape: tuple[int, ...], source: Generator) -> Tensor:
    """Standard normal noise, float64 on the CPU, so that dtype and device do not change a molecule."""
    return torch.randn(shape, generator=source, dtype=torch.float64)
