"""Time and memory of counting GPT-3 175B as a whole process: `python -m benchmarks.ledger`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ARGUMENTS = ["model=gpt3_175b", "adapter=lora", "rank=4", "target=qv", "format=json"]
REPEATS = 5
RESULT = Path(__file__).with_suffix(".json")


def measure() -> tuple[float, int]:
    """Seconds from start to end of the process, and its peak resident bytes."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "src.params", *ARGUMENTS], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"src.params failed with status {status}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    """Count several times, print the medians and write what came out."""
    measured = [measure() for _ in range(REPEATS)]
    outcome = {
        "arguments": ARGUMENTS,
        "seconds": [round(seconds, 2) for seconds, _ in measured],
        "median_seconds": round(median(seconds for seconds, _ in measured), 2),
        "peak_megabytes": round(max(peak for _, peak in measured) / 1e6),
    }
    RESULT.write_text(json.dumps(outcome, indent=1) + "\n")
    print(json.dumps(outcome, indent=1))


if __name__ == "__main__":
    main()
