"""Time and memory of tables, figures and report from many stored runs: `python -m benchmarks.analysis [runs=100,1000]`.

The runs are synthetic copies of a committed record: 10 methods at 10 ranks on 2 target sets with 10 seeds are the 2,000
runs of a task. Each has the scores of 2,000 validation and 3,000 test items, whose difficulty all runs share.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from src.results.store import CONFIG, PREDICTIONS, RESULT

ROOT = Path(__file__).resolve().parents[1]
OUTCOME = Path(__file__).with_suffix(".json")
COUNTS = (100, 1000, 3000, 10_000)
ITEMS = {"validation": 2000, "test": 3000}
PROGRAMS = ("src.tables", "src.figures", "src.report")
TASKS = [f"task_{letter}" for letter in "abcde"]
METHODS = [f"method_{number:02}" for number in range(10)]
RANKS, SEEDS = [2**power for power in range(10)], range(10)
TARGETS = {"qv": 2, "all_linear": 12}  # with the number of matrices' sides, in parameters
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def configurations() -> Iterator[tuple[str, str, int, str, int]]:
    """Task, method, rank, target set and seed of run after run, seeds innermost."""
    return product(TASKS, METHODS, RANKS, TARGETS, SEEDS)


def template() -> dict[str, Any]:
    """A committed record, with the history of a longer run."""
    path = sorted((ROOT / "results/nine_runs/runs").rglob(f"lora-r8*/{RESULT}"))[0]
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    loss = [{"step": step, "loss": 2.0 / step**0.1} for step in range(10, 610, 10)]
    return record | {"history": loss + [{"step": step, "validation": 0.5} for step in range(100, 700, 100)]}


def make_runs(folder: Path, number: int) -> None:
    """Write the first runs of the study, each with its config, record and predictions."""
    record, generator = template(), np.random.default_rng(0)
    ease = {split: generator.normal(size=items) for split, items in ITEMS.items()}
    for task, method, rank, target, seed in islice(configurations(), number):
        strength = 0.3 + 0.1 * np.log2(rank) / 9 + 0.01 * METHODS.index(method) + 0.02 * generator.normal()
        correct = {split: offsets + generator.normal(size=len(offsets)) < strength for split, offsets in ease.items()}
        run = run_record(record, task, method, rank, target, seed, correct)
        place = folder / "runs" / task / "minilm" / run["run_id"]
        place.mkdir(parents=True)
        (place / RESULT).write_text(json.dumps(run, indent=1))
        (place / CONFIG).write_text(json.dumps(run["config"], indent=1))
        pq.write_table(predictions(correct), place / PREDICTIONS)


def run_record(
    record: dict[str, Any], task: str, method: str, rank: int, target: str, seed: int, correct: dict[str, Any]
) -> dict[str, Any]:
    """The template as the record of another run, with the scores of its items."""
    run, trained = deepcopy(record), 768 * rank * TARGETS[target]
    run["config"]["adapter"]["name"] = method
    run["config"]["task"]["name"], run["config"]["target"]["name"] = task, target
    axes = {"rank": rank, "seed": seed, "alpha": 2.0 * rank}
    run["config"] |= axes
    run["identity"] |= axes
    run["parameters"] |= {"adapter_trained": trained, "trained": trained + run["parameters"]["head_trained"]}
    for split, hits in correct.items():
        run["metrics"][split] |= {"value": float(hits.mean()), "n": len(hits)}
    trials = [{"value": rate, "validation": 0.6 - abs(np.log10(rate) + 2.5) / 10, "state": "done"} for rate in RATES]
    run["tuning"] = {"axis": "lr", "seed": 100, "trials": trials, "chosen": 0.003, "at_edge": False}
    return run | {"run_id": f"{method}-r{rank}-{target}-s{seed}-{task}"}


def predictions(correct: dict[str, Any]) -> pa.Table:
    """The scored items as a run stores them; the reference is always 0."""
    frames = [
        pd.DataFrame({"split": split, "item": range(len(hits)), "prediction": 1 - hits.astype(int), "reference": 0})
        for split, hits in correct.items()
    ]
    table = pd.concat(frames, ignore_index=True).astype({"split": "category"})
    return pa.Table.from_pandas(
        table.assign(score=np.concatenate(list(correct.values())).astype(np.float32)), preserve_index=False
    )


def measure(module: str, folder: Path) -> dict[str, float]:
    """Seconds from start to end of a program on the runs, and its peak resident megabytes."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", module, f"results_dir={folder}"], stdout=subprocess.DEVNULL, cwd=ROOT
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{module} failed with status {status}")
    return {"seconds": round(time.perf_counter() - start, 1), "peak_megabytes": round(usage.ru_maxrss * 1024 / 1e6)}


def main() -> None:
    """Make runs, time the programs on them, print and write what came out."""
    counts = OmegaConf.from_cli(sys.argv[1:]).get("runs", ",".join(map(str, COUNTS)))
    rows = []
    for number in [int(count) for count in str(counts).split(",")]:
        with tempfile.TemporaryDirectory() as folder:
            make_runs(Path(folder), number)
            rows.append({"runs": number, **{module: measure(module, Path(folder)) for module in PROGRAMS}})
        print(json.dumps(rows[-1]), flush=True)
    OUTCOME.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
