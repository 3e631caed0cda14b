"""One run's way through its states: claimed, running, then done, failed, diverged, out of memory or interrupted."""

import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.config.schema import Config
from src.errors import UserError
from src.files import write_json
from src.results.identity import identity, run_folder
from src.results.store import (
    CONFIG,
    FIT,
    PREDICTIONS,
    RESULT,
    RESULTS_VERSION,
    TRACEBACK,
    Record,
    claimed,
    is_done,
)
from src.running.progress import RunLine
from src.running.steps import with_steps
from src.running.sweep import Plan
from src.running.tuning import rate
from src.tasks.base import load_task


def run(config: Config, plan: Plan) -> str:
    """Do the run unless it is done already or another worker is at it; return its state."""
    config = with_steps(config)
    fingerprint = load_task(config).fingerprint
    folder = run_folder(config, fingerprint)
    if is_done(folder):
        return "done"
    trial = "" if config.trainer.score_test else f" at {rate(config):g}"
    line = RunLine(plan.place(folder), _label(folder) + trial, config.trainer.steps)
    with claimed(folder) as mine:
        if not mine:
            line.end("another worker is at it")
            return "running"
        for stale in (RESULT, TRACEBACK, PREDICTIONS):
            (folder / stale).unlink(missing_ok=True)
        write_json(folder / CONFIG, asdict(config))
        record = _attempt(config, folder, plan, line, fingerprint)
        record["run_id"] = folder.name
        write_json(folder / RESULT, record)
        if record["state"] == "done":
            (folder / FIT).unlink(missing_ok=True)
    line.end(_outcome(record), plan.seconds_left())
    return str(record["state"])


def _label(folder: Path) -> str:
    return folder.name.rpartition("-")[0]


def _attempt(config: Config, folder: Path, plan: Plan, line: RunLine, fingerprint: str) -> Record:
    """Execute the run under tracking; whatever goes wrong becomes a record that says so."""
    line.show("loading")
    try:
        return _execute_tracked(config, folder, plan, line)
    except KeyboardInterrupt as error:
        write_json(folder / RESULT, {**_failure(config, fingerprint, error), "run_id": folder.name})
        raise
    except Exception as error:
        if not isinstance(error, UserError):
            (folder / TRACEBACK).write_text(traceback.format_exc())
        return _failure(config, fingerprint, error)


def _execute_tracked(config: Config, folder: Path, plan: Plan, line: RunLine) -> Record:
    from src.quiet import quiet_libraries

    quiet_libraries()
    from src.running.execute import execute
    from src.running.tracking import tracked

    tracking = tracked(
        config.tracking,
        run_id=folder.name,
        name=_label(folder),
        group=plan.group,
        folder=Path(config.results_dir) / "wandb",
        config=asdict(config),
    )
    with tracking as tracker:

        def report(step: int, metrics: dict[str, float]) -> None:
            tracker.log(step, metrics)
            line.show_step(step, metrics)

        record = execute(config, folder, report)
        scores = {split: metric["value"] for split, metric in record["metrics"].items()}
        tracker.summarise(scores | {"parameters": record["parameters"], "time": record["time"]})
    return record


def _failure(config: Config, fingerprint: str, error: BaseException) -> Record:
    states = {"Diverged": "diverged", "OutOfMemoryError": "out_of_memory", "MemoryError": "out_of_memory"}
    states["KeyboardInterrupt"] = "interrupted"
    kind = type(error).__name__
    return {
        "results_version": RESULTS_VERSION,
        "state": states.get(kind, "failed"),
        "identity": identity(config, fingerprint),
        "config": asdict(config),
        "error": {"class": kind, "message": str(error) or kind},
    }


def _outcome(record: Record) -> str:
    if record["state"] != "done":
        error = record["error"]
        message = error["message"] if error["class"] == "UserError" else f"{error['class']}: {error['message']}"
        return f"{record['state']}: {message}"
    metrics: dict[str, Any] = record["metrics"]
    scores = "  ".join(f"{split} {metric['value']:.4f}" for split, metric in metrics.items())
    loss = next((point["loss"] for point in reversed(record["history"]) if "loss" in point), float("nan"))
    return f"loss {loss:.3f}  {scores}  {record['time']['run_seconds']:.0f} s"
