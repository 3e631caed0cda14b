"""One run's way through its states: claimed, running, then done, failed, diverged, out of memory or interrupted."""

import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from src.config.schema import Config
from src.credentials import redacted
from src.errors import Diverged, UserError
from src.files import remove_partial, write_json, write_text
from src.interrupts import note_end, uninterrupted, was_interrupted
from src.metrics import TIMED_OUT
from src.results.identity import identity, run_folder
from src.results.provenance import note_code
from src.results.schema import SCHEMA_VERSION, Record
from src.results.standing import note_progress
from src.results.store import (
    CHECKPOINT,
    CONFIG,
    FIT,
    PREDICTIONS,
    PROGRESS,
    RESULT,
    TRACEBACK,
    claimed,
    is_done,
    read_record,
)
from src.running.inputs import inputs_of, with_steps
from src.running.progress import RunLine
from src.running.sweep import UNRECORDED, Plan
from src.running.tuning import rate

RESUMES_HERE = "the same command goes on with it"


def run(config: Config, plan: Plan) -> str:
    """Do the run unless it is done already or another worker is running it; return its state.

    Raises nothing but an interrupt, so that the runs after it are done: what goes wrong is in its record, and where
    even that can't be written, as on a full disk, in a line and in the table at the end.
    """
    try:
        config = with_steps(config)
        folder = run_folder(config, inputs_of(config))
    # What was there when the sweep was planned no longer is.
    except (Exception, SystemExit) as error:
        _go_on_after(error)
        print(f"failed: {config.adapter.name} on {config.task.name}: {_said(error)}", flush=True)
        return "failed"
    trial = "" if config.trainer.score_test else f" at {rate(config):g}"
    line = RunLine(plan.position(folder), _label(folder) + trial, config.trainer.steps)
    try:
        earlier = read_record(folder)
    except UserError as error:  # it stays as it is, as somebody may still make something of it
        line.end(f"unreadable: {error}")
        return "unreadable"
    if earlier and earlier["state"] == "done":
        return "done"
    try:
        return _run_claimed(config, folder, plan, line)
    except (Exception, SystemExit) as error:
        _go_on_after(error)
        UNRECORDED[str(folder)] = reason = f"no record could be written: {_said(error)}"
        line.end(f"failed: {reason}")
        return "failed"


def _go_on_after(error: BaseException) -> None:
    """End the sweep where the error came of an interrupt."""
    if was_interrupted():
        raise KeyboardInterrupt from error


def _run_claimed(config: Config, folder: Path, plan: Plan, line: RunLine) -> str:
    note_code()
    with claimed(folder) as mine:
        if not mine:
            line.end("another worker is running it")
            return "running"
        # What an earlier attempt left, but for its checkpoint, and its adapter and fit, which needn't be trained again.
        for stale in (RESULT, TRACEBACK, PREDICTIONS):
            (folder / stale).unlink(missing_ok=True)
        remove_partial(folder)
        write_json(folder / CONFIG, asdict(config))
        record = _attempt(config, folder, plan, line)
        (folder / PROGRESS).unlink(missing_ok=True)
    line.end(_outcome(record), plan.seconds_left())
    return str(record["state"])


def _label(folder: Path) -> str:
    return folder.name.rpartition("-")[0]


def _attempt(config: Config, folder: Path, plan: Plan, line: RunLine) -> Record:
    """Execute the run under tracking; whatever goes wrong becomes a record that says so."""
    line.show("loading")
    try:
        return _execute_tracked(config, folder, plan, line)
    except BaseException as error:
        # Written here, since the interrupt goes on to end the sweep.
        if isinstance(error, KeyboardInterrupt) or was_interrupted():
            note_end()
            if not is_done(folder):
                _keep(config, folder, _failure(config, folder, KeyboardInterrupt(RESUMES_HERE)))
                line.end("interrupted")
            raise KeyboardInterrupt from error
        # A library that ends the program ends its run, so that any other exception is the run's.
        if not isinstance(error, UserError):
            with suppress(OSError):  # a full disk, which the record says in few words
                write_text(folder / TRACEBACK, redacted(traceback.format_exc()))
        return _keep(config, folder, _failure(config, folder, error))


def _keep(config: Config, folder: Path, record: Record) -> Record:
    """Write the record, or where a number in it isn't finite one that says so; no interrupt may prevent it."""
    with uninterrupted():
        try:
            write_json(folder / RESULT, record)
        except UnicodeError:
            raise
        except ValueError as error:
            record = _failure(config, folder, Diverged(f"a number in its record isn't finite ({error})"))
            write_json(folder / RESULT, record)
        # The record has all that it says.
        if record["state"] in ("done", "diverged"):
            for spent in (FIT, CHECKPOINT):
                (folder / spent).unlink(missing_ok=True)
    return record


def _execute_tracked(config: Config, folder: Path, plan: Plan, line: RunLine) -> Record:
    from src.quiet import quiet_libraries

    quiet_libraries()
    # Imported here, as a run that is done or taken needs none of it.
    from src.running.execute import execute
    from src.running.tracking import tracked

    tracking = tracked(
        config.tracking,
        run_id=folder.name,
        name=_label(folder),
        group=plan.group,
        folder=Path(config.results_dir) / "wandb",
        config=asdict(config),
        say=line.say,
    )
    with tracking as tracker:

        def report(step: int, metrics: dict[str, float]) -> None:
            tracker.log(step, metrics)
            line.show_step(step, metrics)
            note_progress(folder, step, config.trainer.steps, line.seconds_left(step))

        record = _keep(config, folder, execute(config, folder, report))  # before W&B takes its time
        if record["state"] == "done":  # a number in it may have turned out to be none
            scores = {split: metric["value"] for split, metric in record["metrics"].items()}
            tracker.summarize(scores | {"parameters": record["parameters"], "time": record["time"]})
    return record


def _failure(config: Config, folder: Path, error: BaseException) -> Record:
    # By name: the classes would have to be imported, and torch with them.
    states = {"Diverged": "diverged", "OutOfMemoryError": "out_of_memory", "MemoryError": "out_of_memory"}
    states["KeyboardInterrupt"] = "interrupted"
    kind = type(error).__name__
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": folder.name,
        "state": states.get(kind, "failed"),
        "identity": identity(config, inputs_of(config)),
        "config": asdict(config),
        "error": {"class": kind, "message": redacted(str(error)) or kind},
    }


def _said(error: BaseException) -> str:
    """An exception in a line; the class says little of what a user can put right."""
    text = redacted(str(error))
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _outcome(record: Record) -> str:
    error = record["error"]
    if error is not None:
        said = error["class"] in ("UserError", "Diverged")  # messages that say all there is to say
        message = error["message"] if said else f"{error['class']}: {error['message']}"
        return f"{record['state']}: {message}"
    scores = "  ".join(f"{split} {metric['value']:.4f}" for split, metric in record["metrics"].items())
    loss = next((point["loss"] for point in reversed(record["history"]) if "loss" in point), float("nan"))
    doubts = "".join(f"  {flag}" for flag in record.get("flags", []))
    stopped = sum(metric.get("more", {}).get(TIMED_OUT, 0) for metric in record["metrics"].values())
    timed_out = f"  ({stopped:,.0f} programs timed out, counted as wrong)" if stopped else ""
    return f"loss {loss:.3f}  {scores}{timed_out}  {record['time']['run_seconds']:.0f} s{doubts}"
