"""CPU time of a sweep's start: 5,000 jobs composed, checked and identified. `python -m benchmarks.composition`.

CPU seconds of this process, which other processes on the machine don't lengthen as they do a clock's. The libraries'
import, which is the same for one job, is told apart.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
AXES = ["adapter=lora,lora_fa,dora,pissa,rslora", "target=qv,attention,ffn,all_linear", "rank=range(1,11)"]
SEEDS = 25
RESULT = Path(__file__).with_suffix(".json")


def timed(seconds: dict[str, float], what: str, work: Callable[[], T]) -> T:
    """The work's result; its CPU seconds are noted."""
    start = time.process_time()
    result = work()
    seconds[what] = round(time.process_time() - start, 2)
    return result


def main() -> None:
    """Measure each step once, print and write what came out."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*AXES, f"seed=range(0,{SEEDS})", f"results_dir={folder}", "trainer.precision=fp32"]
        timed(seconds, "import", _import)
        from src.config.sweeps import run_configs
        from src.running.inputs import folder_of
        from src.running.sweep import Plan

        timed(seconds, "first_job", lambda: folder_of(run_configs([f"results_dir={folder}"])[0]))
        configs = timed(seconds, "composed_and_checked", lambda: run_configs(overrides))
        plan = timed(seconds, "planned_and_identified", lambda: Plan.of(configs))
    total = seconds["composed_and_checked"] + seconds["planned_and_identified"]
    outcome = {
        "jobs": len(plan.folders),
        "cpu_seconds": seconds,
        "cpu_milliseconds_a_job": round(1000 * total / len(configs), 2),
    }
    RESULT.write_text(json.dumps(outcome, indent=1) + "\n")
    print(json.dumps(outcome, indent=1))


def _import() -> None:
    import src.running.sweep  # noqa: F401


if __name__ == "__main__":
    main()
