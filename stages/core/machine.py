"""What this machine has for stages to lease."""

from __future__ import annotations

import os
import subprocess


def cores() -> int:
    """Of those that there are, the ones that we may use."""
    mask = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(mask(0)) if mask else os.cpu_count() or 1


def gpus(device: str) -> dict[int, int]:
    """Id -> free bytes of the GPUs that stages may lease; none where they run on the CPU.

    Those that CUDA_VISIBLE_DEVICES hides are left out, and those with less than half of the memory
    that the freest has: a screen, or another program, is at work there.
    """
    if device == "cpu":
        return {}
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = None if visible is None else [v.strip() for v in visible.split(",") if v.strip()]
    free = {}
    for index, uuid, memory in ([w.strip() for w in line.split(",")] for line in told.splitlines()):
        if shown is None or any(v == index or uuid.startswith(v) for v in shown):
            free[int(index)] = int(memory) * 2**20
    return {index: own for index, own in free.items() if 2 * own >= max(free.values())}
