"""What this machine has, found without importing torch."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["cores", "default_device", "default_dtype", "has_packages", "host", "memory_bytes", "versions"]

PACKAGES = (
    "quantxai", "torch", "transformers", "accelerate", "gptqmodel", "bitsandbytes", "torchao", "optimum",
    "compressed-tensors", "sentence-transformers", "vllm", "numpy", "pandas", "pyarrow", "duckdb", "scipy",
    "statsmodels", "rapidfuzz", "pydantic",
)  # fmt: skip


def cores() -> int:
    """Return the number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Return the machine's memory in bytes, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


@cache
def processor_flags() -> frozenset[str]:
    """Return the processor's feature flags (Linux; empty elsewhere)."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


@cache
def gpus() -> tuple[str, ...]:
    """Return the names of usable GPUs; none where no driver or no GPU build of torch is present."""
    if not shutil.which("nvidia-smi") or find_spec("torch") is None:
        return ()
    import torch

    return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def default_device() -> str:
    """Return cuda where a GPU is usable, else cpu."""
    return "cuda" if gpus() else "cpu"


def default_dtype(device: str) -> str:
    """Return the fastest sensible compute type.

    bfloat16 on a GPU and on CPUs with bfloat16 instructions; float32 on others, where bfloat16 is
    emulated at about a sixth of the speed.
    """
    fast = {"avx512_bf16", "amx_bf16", "bf16"}
    return "bfloat16" if device != "cpu" or fast & processor_flags() else "float32"


def has_packages(names: tuple[str, ...]) -> list[str]:
    """Return those of the import names that are not installed."""
    return [name for name in names if find_spec(name) is None]


def versions() -> dict[str, str]:
    """Return the version of Python and of every package that matters and is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def host() -> dict[str, Any]:
    """Return what a reader needs to judge timings: system, processor, cores, memory, GPUs."""
    memory = memory_bytes()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores(),
        "memory_gb": round(memory / 2**30, 1) if memory else None,
        "bfloat16_instructions": default_dtype("cpu") == "bfloat16",
        "gpus": list(gpus()),
    }


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
