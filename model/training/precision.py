"""The devices that multiply matrices in bfloat16 faster than in float32."""

import torch


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether products in bfloat16 are faster than in float32; training uses float32 where they are not.

    They are on CPUs with AVX-512 and on GPUs with bfloat16 of their own. With AVX2 alone PyTorch emulates them.
    """
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
