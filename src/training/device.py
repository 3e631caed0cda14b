"""What this machine is and which numeric format it computes fast, recorded with each run."""

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
MEASURED: dict[str, float] = {}  # by this process, or by the one that it works for, as the two are to agree


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
    """The GPU where there is one, else the CPU.

    `precision` auto takes bf16 on a GPU that has units for it, and on a CPU where that is measurably faster. On a GPU
    nothing is measured: small products take the time of their launch in either format, so that the outcome would be
    chance.
    """
    if torch.cuda.is_available():
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
        chosen = ("bf16" if has_units else "fp32") if precision == "auto" else precision
        return Device("cuda", torch.cuda.get_device_name(), chosen, bf16_speedup=None, attention="sdpa")
    speedup = None
    if precision == "auto":
        if "bf16_speedup" not in MEASURED:
            MEASURED["bf16_speedup"] = _bf16_speedup()
        speedup = MEASURED["bf16_speedup"]
        precision = "bf16" if speedup >= BF16_WORTHWHILE else "fp32"
    return Device("cpu", _cpu_name(), precision, speedup, attention="eager")


def _bf16_speedup() -> float:
    """Time of a float32 matrix product over that of a bfloat16 one, sizes as in a small encoder's layers."""
    left, right = torch.ones(512, 768), torch.ones(768, 768)
    left16, right16 = left.bfloat16(), right.bfloat16()
    ratios = []
    for _ in range(9):
        ratios.append(_seconds(lambda: left @ right) / _seconds(lambda: left16 @ right16))
    # The median, as other processes disturb single measurements.
    return round(median(ratios), 2)


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    # The first product pays for what is loaded and allocated once.
    product()
    start = time.perf_counter()
    for _ in range(4):
        product()
    return time.perf_counter() - start


def _cpu_name() -> str:
    model = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def memory_bytes() -> int:
    """The memory of the device that runs compute on here."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
