"""Time one run of this project beside the plain PEFT + Trainer script, whole processes, in turn.

    python -m benchmarks.one_run [repetitions=3]

Writes `benchmarks/one_run.json` with every time and the medians. Both have the docstrings cached.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from src.training.device import find_device

OURS = ["src.run", "adapter=lora", "rank=8", "target=all_linear", "tracking=none"]
PLAIN = ["benchmarks.plain_peft"]


def seconds(arguments: list[str]) -> float:
    """Wall-clock seconds of `python -m arguments`, from start to exit."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Alternate the two programs and write what they took."""
    repetitions = int(sys.argv[1].removeprefix("repetitions=")) if len(sys.argv) > 1 else 3
    times: dict[str, list[float]] = {"this_project_seconds": [], "plain_peft_seconds": []}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as results_dir:
            times["this_project_seconds"].append(round(seconds([*OURS, f"results_dir={results_dir}"]), 1))
        times["plain_peft_seconds"].append(round(seconds(PLAIN), 1))
        print(times, flush=True)
    medians = {f"{name}_median": median(values) for name, values in times.items()}
    ratio = medians["plain_peft_seconds_median"] / medians["this_project_seconds_median"]
    device = find_device("auto")
    written = times | medians | {"ratio": round(ratio, 2), "machine": device.name, "precision": device.precision}
    Path("benchmarks/one_run.json").write_text(json.dumps(written, indent=1) + "\n")
    print(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
