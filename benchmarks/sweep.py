"""The nine-run sweep beside nine runs of the plain PEFT + Trainer script, and what their factor is made of.

    python -m benchmarks.sweep [precision=fp32]

Whole processes, one after another; all have the docstrings cached. The plain script is also run with the options that
do what this project does by itself. Writes `benchmarks/sweep.json`, by precision.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from src.config.arguments import options
from src.training.device import find_device

RESULT = Path(__file__).with_suffix(".json")
NINE = ["src.run", "-m", "adapter=lora,lora_fa,lora_sb", "rank=4,8,16", "tracking=none"]
ONE = ["src.run", "adapter=lora", "rank=8", "tracking=none"]
OPTIONS = ["eval_batch=128", "attention=eager", "by_length=true"]
PLAIN = {"plain script": [], "plain script, its options": OPTIONS}
OURS = {"this project, one run": ONE, "nine runs": NINE}


def seconds(arguments: list[str]) -> float:
    """Wall-clock seconds of `python -m arguments`, from start to exit."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - start, 1)


def commands(precision: str) -> dict[str, list[str]]:
    """What is timed, by its name; `results_dir` is to be added to those of this project."""
    half = ["bf16=true"] if precision == "bf16" else []
    plain = {name: ["benchmarks.plain_peft", *half, *asked] for name, asked in PLAIN.items()}
    return plain | {name: [*ours, f"trainer.precision={precision}"] for name, ours in OURS.items()}


def main() -> None:
    """Time them, and print the seconds and their share of as many plain runs."""
    precision = options(precision="fp32")["precision"]
    stored: dict[str, dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    times: dict[str, float] = {}
    for name, command in commands(precision).items():
        with tempfile.TemporaryDirectory() as folder:
            times[name] = seconds([*command, *([f"results_dir={folder}"] if command[0] == "src.run" else [])])
        runs = 9 if name.startswith("nine") else 1
        print(f"{name:<30} {times[name]:7.1f} s  {times[name] / runs / times['plain script']:.3f} of plain", flush=True)
    stored[precision] = {"machine": find_device("fp32").name, "seconds": times}
    RESULT.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
