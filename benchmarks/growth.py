"""How a LoRA step on a CPU grows with the rank, the length and the number of texts, beside PEFT's and the limit's.

    python -m benchmarks.growth [rounds=3]

MiniLM's shape with random weights in float32, all linear layers, one thread; one of rank 8, 64 tokens and 16 texts is
changed at a time. The variants take turns on one base. Writes `benchmarks/growth.json`: medians by the thread's clock.
"""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.step import SETTINGS, seconds_of
from benchmarks.variants import Around, Base, base_of, batch_of, frozen, ours, theirs
from src.quiet import quiet_libraries
from src.training.device import find_device

RESULT = Path(__file__).with_suffix(".json")
USUAL = {"rank": 8, "tokens": 64, "texts": 16}
VALUES = {"rank": [1, 4, 8, 16, 32, 64], "tokens": [16, 32, 64, 128, 256], "texts": [1, 4, 16, 64]}
Variant = Callable[[Base], AbstractContextManager[Around]]
(FLOAT32,) = [setting for setting in SETTINGS if setting.name == "float32"]


def row_of(base: Base, axis: str, value: int, rounds: int) -> dict[str, Any]:
    """The milliseconds of each variant's step at one point."""
    at = USUAL | {axis: value}
    base.batch.update(batch_of((at["texts"], at["tokens"]), base.model))
    variants: dict[str, Variant] = {
        "limit": frozen,
        "lora": partial(ours, name="lora", autocast=False, rank=at["rank"]),
        "peft lora": partial(theirs, name="peft lora", rank=at["rank"]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, on in variants.items():
            with on(base) as method:
                for turn in range(3):  # of which the first warms up
                    taken = seconds_of(base, FLOAT32, method.begin)
                    method.end()
                    seconds[name] += [taken] if turn else []
    return {"axis": axis, "value": value} | {name: round(1000 * median(of), 1) for name, of in seconds.items()}


def main() -> None:
    """Measure all points and write what came out."""
    quiet_libraries()
    rounds = int(sys.argv[1].removeprefix("rounds=")) if len(sys.argv) > 1 else 3
    torch.set_num_threads(1)
    base = base_of("minilm", (USUAL["texts"], USUAL["tokens"]), "cpu", attention="eager")
    rows = []
    for axis, values in VALUES.items():
        for value in values:
            rows.append(row_of(base, axis, value, rounds))
            print(rows[-1], flush=True)
    RESULT.write_text(json.dumps({"machine": find_device("fp32").name, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
