"""What of the machine can change a number, and how the door holds it still."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from stages.core.files import read_json, write_json

NUMERIC_PACKAGES = (
    "diffusers", "matplotlib", "numpy", "onnx", "onnxruntime", "onnxscript", "pandas", "pyarrow",
    "safetensors", "scikit-learn", "scipy", "soundfile", "torch", "torch-pruning", "torchmetrics",
)  # fmt: skip


def instruction_set() -> str:
    """The class within which results agree byte for byte: "avx2", or the machine's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        flags = next((x for x in cpuinfo.open() if x.startswith("flags")), "").split()
        if {"avx2", "fma"} <= set(flags):
            return "avx2"
    return platform.machine()


def pins() -> dict[str, str]:
    """What the door sets before torch or NumPy is imported, but for the number of threads.

    Kernels picked by the processor (AVX-512 here, AVX2 there) sum in another order; pinned to the
    same class, two machines give the same bytes.
    """
    avx2 = instruction_set() == "avx2"
    return {
        "ATEN_CPU_CAPABILITY": "avx2" if avx2 else "default",
        "ONEDNN_MAX_CPU_ISA": "AVX2" if avx2 else "DEFAULT",
        # MKL's AVX2 branch differs between vendors; this one does not.
        "MKL_CBWR": "COMPATIBLE",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # OpenBLAS picks its kernels by the processor too.
        **({"OPENBLAS_CORETYPE": "Haswell"} if avx2 else {}),
    }


TORCH = {
    "deterministic_algorithms": True,
    # Filling fresh memory only helps to find faulty kernels, and costs a tenth of a small step.
    "fill_uninitialized_memory": False,
    "cudnn_benchmark": False,
    # Denormals slow a CPU a hundredfold in late training; flushing them is exact across runs.
    "flush_denormal": True,
}
"""How the door sets torch."""


def pin(threads: int) -> None:
    """Fix instruction set and thread counts. Must run before torch or NumPy is imported."""
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    os.environ.update(pins(), **dict.fromkeys(counts, str(threads)))


def make_deterministic(threads: int) -> None:
    """Make torch use deterministic algorithms on a fixed number of threads."""
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(TORCH["deterministic_algorithms"])
    filled = TORCH["fill_uninitialized_memory"]
    torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = TORCH["cudnn_benchmark"]
    torch.set_flush_denormal(TORCH["flush_denormal"])


def keep_freed_memory() -> None:
    """Let glibc keep what a training step frees: giving it back and faulting it in again at every
    step costs a small network a tenth of its time. No number depends on it."""
    if platform.libc_ver()[0] != "glibc":
        return
    import ctypes

    libc = ctypes.CDLL(None)
    for option, value in ((-1, 1 << 30), (-2, 16 << 20), (-3, 32 << 20)):
        # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD (the largest that glibc takes)
        libc.mallopt(option, value)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in NUMERIC_PACKAGES:
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def device() -> dict[str, object]:
    """The machine that a time is measured on."""
    import psutil

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        line = next((x for x in cpuinfo.open() if x.startswith("model name")), "")
        model = line.partition(":")[2].strip() or model
    return {
        "cpu": model,
        "cores": psutil.cpu_count(logical=True),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "gpu": _gpus(),
        "os": f"{platform.system()} {platform.machine()}",
    }


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sorted(x.partition("(UUID")[0].strip() for x in answer.stdout.splitlines())


def fingerprint(root: Path) -> None:
    """Write work/environment.json (a dep of every stage) and work/device.json (of bench)."""
    current = {
        "instruction_set": instruction_set(),
        "pins": pins(),
        "torch": TORCH,
        "versions": versions(),
    }
    for name, value in (("environment.json", current), ("device.json", device())):
        path = root / "work" / name
        if not path.is_file() or read_json(path) != value:
            write_json(path, value)
