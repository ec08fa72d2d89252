"""The devices that multiply matrices in bfloat16 faster than in float32."""

import torch

FAST_CPUS = ("AVX512", "AVX10", "SVE")
"""The beginnings of PyTorch's names for instruction sets of CPUs with fast products in bfloat16. With AVX2 alone they
take ten times as long as in float32."""


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether products in bfloat16 are faster than in float32; training uses float32 where they are not."""
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability().startswith(FAST_CPUS)
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
