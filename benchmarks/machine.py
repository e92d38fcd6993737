"""What a result needs beside it to be worth anything: the machine, the versions, and memory readings of a process."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

_PACKAGES = (
    "assay",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "sae-lens",
    "transformer-lens",
    "nnsight",
    "vllm",
)
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def versions() -> dict[str, str]:
    """Package -> version, for those that take part; "not installed" is said."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def describe(device: str, threads: int) -> dict[str, object]:
    """CPU model and the vector units that matter, cores, memory, threads used, and the GPU if one is used."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(fields.get("flags", "").split())
    machine: dict[str, object] = {
        "cpu": fields.get("model name", platform.processor() or "unknown"),
        "cpu_flags": [flag for flag in _CPU_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": threads,
    }
    if device.startswith("cuda"):
        import torch

        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine


class Usage(NamedTuple):
    """Memory of a process in bytes, as Linux counts it."""

    rss: int
    """pages in memory, shared ones included"""
    pss: int
    """the same, each shared page divided by the number of processes that map it"""
    uss: int
    """pages that no other process maps: what one more process costs"""


def usage(pid: int) -> Usage:
    """Present memory of a process, from smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()[1:]
    kib = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)}
    return Usage(1024 * kib["Rss"], 1024 * kib["Pss"], 1024 * (kib["Private_Clean"] + kib["Private_Dirty"]))


def peak_rss(pid: int | str = "self") -> int:
    """Bytes at the highest since the process began, or since `reset_peak`."""
    return _status_bytes(pid, "VmHWM")


def reset_peak() -> int | None:
    """Starts the peak anew; returns the present bytes, or None where the kernel won't."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
    except OSError:
        return None
    return _status_bytes("self", "VmRSS")


def _status_bytes(pid: int | str, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return 0
