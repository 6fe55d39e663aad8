"""The precision of training: what the hardware is fast at, and the context that computes in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


def autocast(device: str, precision: str) -> torch.autocast:
    """Return a context that computes in fp32, bf16 or fp16."""
    import torch

    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    # every module runs once per step, so a cache of cast weights would only hold memory
    return torch.autocast(device, dtype, enabled=precision != "fp32", cache_enabled=False)


def fast_precision(device: str) -> Literal["fp32", "bf16", "fp16"]:
    """Return bf16 where the hardware computes in it, else fp16 on a GPU that is fast at it, else fp32."""
    import torch

    if _computes_in_bf16(device):
        return "bf16"
    is_fast_in_fp16 = device == "cuda" and torch.cuda.get_device_capability() >= (7, 0)  # it has tensor cores
    return "fp16" if is_fast_in_fp16 else "fp32"


def _computes_in_bf16(device: str) -> bool:
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):  # from PyTorch 2.11 on
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    earlier = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in earlier)
