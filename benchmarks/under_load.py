"""A short run beside two busy processes and alone, with the limit on spinning and as PyTorch comes.

    python -m benchmarks.under_load [rounds=3]

Each is a process of its own. Writes `benchmarks/under_load.json`: seconds of training, medians, and the ratios.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from src.threads import SPINS
from src.training.device import find_device

RESULT = Path(__file__).with_suffix(".json")
STEPS = 30
BUSY = "import torch; torch.set_num_threads(1); a = torch.randn(800, 800)\nwhile True: a @ a"
# 300,000 is what libgomp spins where nothing is said.
KINDS = {"limited": {"GOMP_SPINCOUNT": SPINS}, "as it comes": {"GOMP_SPINCOUNT": "300000"}}


def seconds_of(kind: str) -> float:
    """The training of a run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "src.run", "adapter=lora", "rank=8", f"trainer.max_steps={STEPS}", "tracking=none",
            "forgetting=none", "trainer.eval_limit=64", "trainer.precision=bf16", f"results_dir={folder}",
        ]  # fmt: skip
        subprocess.run(command, env=os.environ | KINDS[kind], check=True, capture_output=True)
        (path,) = Path(folder).rglob("result.json")
        seconds: float = json.loads(path.read_text())["time"]["train_seconds"]
    return seconds


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that take a core each."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()


def main() -> None:
    """Measure both kinds alone and beside two busy processes, in turn."""
    rounds = int(sys.argv[1].removeprefix("rounds=")) if len(sys.argv) > 1 else 3
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for processes in (0, 2):
            for kind in KINDS:
                with busy(processes):
                    seconds.setdefault((kind, processes), []).append(seconds_of(kind))
    rows: list[dict[str, Any]] = [
        {
            "spinning": kind,
            "alone_seconds": round(median(seconds[kind, 0]), 2),
            "beside_two_busy_seconds": round(median(seconds[kind, 2]), 2),
            "ratio": round(median(seconds[kind, 2]) / median(seconds[kind, 0]), 2),
        }
        for kind in KINDS
    ]
    for row in rows:
        print(row)
    RESULT.write_text(json.dumps({"machine": find_device("fp32").name, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
