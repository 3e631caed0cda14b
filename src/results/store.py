"""The store of runs: one folder a run, claimed by one worker at a time, with `result.json` written last.

A folder holds `config.json`, `adapter.safetensors`, `predictions.parquet` and `result.json`; while a run is under
way, `claim.json` names its worker, and from the end of training to the end of scoring `fit.json` says what training
showed. Every file appears whole or not at all. `result.json` is the truth about a run:
where it says done, the run is never repeated.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError
from src.quoting import command_line, written
from src.results.schema import SCHEMA_VERSION, Record

RESULT, CLAIM, CONFIG = "result.json", "claim.json", "config.json"
ADAPTER, PREDICTIONS, TRACEBACK = "adapter.safetensors", "predictions.parquet", "traceback.txt"
FIT = "fit.json"
BEAT_SECONDS = 60  # how often a worker shows that it lives
STALE_SECONDS = 600  # a worker on another machine that hasn't shown itself for so long is taken for dead


def read_record(folder: Path) -> Record | None:
    """The run's record, or None where it has none yet.

    Raises:
        UserError: the file is there but isn't a record, or is one of another version.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        record["state"], record["run_id"], record["identity"], record["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a run record ({error}).\nDelete its folder to run it again.") from error
    _check_version(record, path)
    return record


def _check_version(record: Record, path: Path) -> None:
    version = record.get("schema_version", 1)  # the first version's failed runs didn't say
    if version < SCHEMA_VERSION:
        results_dir = next((folder.parent for folder in path.parents if folder.name == "runs"), path.parent)
        migration = command_line("src.results.migration", [f"results_dir={written(str(results_dir))}"])
        raise UserError(
            f"{path} has record version {version}, this code reads {SCHEMA_VERSION}.\n"
            f"Bring the folder up to date: {migration}"
        )
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has record version {version}, this code reads {SCHEMA_VERSION}.\n"
            "A newer version of the code wrote it: update yours (git pull), or choose another results_dir=..."
        )


def is_done(folder: Path) -> bool:
    """Say whether the run is finished and need not be run again."""
    record = read_record(folder)
    return record is not None and record["state"] == "done"


def run_folders(results_dir: Path) -> list[Path]:
    """The folders of all runs under `results_dir/runs`, also of those without a record yet, in order."""
    folders = os.walk(results_dir / "runs")
    return sorted(Path(folder) for folder, _, files in folders if not {RESULT, CONFIG, CLAIM}.isdisjoint(files))


def read_all(results_dir: Path) -> list[Record]:
    """All records under `results_dir/runs`, in the order of their folders' names."""
    return [record for folder in run_folders(results_dir) if (record := read_record(folder)) is not None]


def check_writable(results_dir: Path) -> None:
    """Make sure that results can be written, and that those already there can be read beside new ones.

    Raises:
        UserError: the folder can't be written, or holds a record that is damaged or of another version.
    """
    probe = results_dir / "runs" / f".probe-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"results_dir={results_dir} can't be written ({error.strerror}).\n"
            "Choose another with results_dir=..., or change its permissions."
        ) from error
    read_all(results_dir)


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Claim a run's folder for this worker and show that it lives; yields False where another worker has it."""
    folder.mkdir(parents=True, exist_ok=True)
    claim = folder / CLAIM
    _remove_if_dead(claim)
    try:
        descriptor = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        yield False
        return
    with os.fdopen(descriptor, "w") as file:
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}, file)
    ended = threading.Event()
    threading.Thread(target=_beat, args=(claim, ended), daemon=True).start()
    try:
        yield True
    finally:
        ended.set()
        claim.unlink(missing_ok=True)


def is_held(folder: Path) -> bool:
    """Say whether a living worker is at the run."""
    claim = folder / CLAIM
    try:
        return not _is_dead(claim.read_text(), time.time() - claim.stat().st_mtime)
    except FileNotFoundError:
        return False


def _beat(claim: Path, ended: threading.Event) -> None:
    """Renew the claim's time until the run has ended."""
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(FileNotFoundError):
            os.utime(claim)


def _remove_if_dead(claim: Path) -> None:
    """Remove the claim of a worker that no longer lives."""
    try:
        text, written = claim.read_text(), claim.stat().st_mtime
    except FileNotFoundError:
        return
    if not _is_dead(text, time.time() - written):
        return
    aside = claim.with_name(f".{CLAIM}.{socket.gethostname()}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):  # another worker is removing it
        claim.rename(aside)
        if aside.read_text() == text:
            aside.unlink()
        else:  # another worker removed the dead one's and made its own
            aside.rename(claim)


def _is_dead(text: str, silent_seconds: float) -> bool:
    """Judge a claim: by its process on this machine, by its silence on another or where it is unreadable."""
    try:
        holder = json.loads(text)
    except ValueError:  # being written at this moment, or left by a crash
        return silent_seconds > STALE_SECONDS
    if holder["host"] != socket.gethostname():
        return silent_seconds > STALE_SECONDS
    return holder["pid"] == os.getpid() or not _lives(holder["pid"])


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
