"""What this machine is and which numeric format it computes fast, found by measuring and recorded with each run."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

import torch

BF16_WORTHWHILE = 1.3  # below this ratio bf16's coarser rounding buys too little


@dataclass(frozen=True)
class Device:
    """Where and how runs compute.

    `attention` is transformers' implementation: plain on a CPU, where a bfloat16 step with the fused one takes almost
    twice as long (`benchmarks/attention.json`); fused elsewhere, where the model has it. `precision_reason` says why a
    model isn't computed in the faster format.
    """

    type: str
    name: str
    precision: str
    bf16_speedup: float | None
    attention: str
    precision_reason: str = ""

    def autocast(self) -> torch.autocast:
        """The context in which this device trains and scores."""
        return torch.autocast(self.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")


@lru_cache(maxsize=4)
def find_device(precision: str) -> Device:
    """The GPU where there is one, else the CPU; `precision` auto takes bf16 where that is measurably faster."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if kind == "cuda" else _cpu_name()
    speedup = None
    if precision == "auto":
        speedup = _bf16_speedup(kind)
        precision = "bf16" if speedup >= BF16_WORTHWHILE else "fp32"
    return Device(kind, name, precision, speedup, attention="sdpa" if kind == "cuda" else "eager")


def _bf16_speedup(kind: str) -> float:
    """Time of a float32 matrix product over that of a bfloat16 one, sizes as in a small encoder's layers."""
    left, right = torch.ones(512, 768, device=kind), torch.ones(768, 768, device=kind)
    left16, right16 = left.bfloat16(), right.bfloat16()
    ratios = []
    for _ in range(9):
        ratios.append(_seconds(lambda: left @ right, kind) / _seconds(lambda: left16 @ right16, kind))
    # The median, as other processes disturb single measurements.
    return round(median(ratios), 2)


def _seconds(product: Callable[[], torch.Tensor], kind: str) -> float:
    # The first product pays for what is loaded and allocated once.
    product()
    if kind == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(4):
        product()
    if kind == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _cpu_name() -> str:
    model = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
