"""The store of runs: one folder a run, claimed by one worker at a time, with `result.json` written last.

A folder holds `config.json`, `adapter.safetensors`, `predictions.parquet` and `result.json`; while a run is under
way, `claim.json` names its worker, `progress.json` says how far it is, `checkpoint.safetensors` is where training can be
gone on with, and from the end of training to the end of scoring `fit.json` says what it showed. Every file appears whole
or not at all. `result.json` is the truth about a run: where it says done, the run is never repeated.
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

import psutil

from src.errors import UserError
from src.files import read_json
from src.quoting import command_line, written
from src.results.schema import SCHEMA_VERSION, Record, contradiction, misfit

RESULT, CLAIM, CONFIG = "result.json", "claim.json", "config.json"
ADAPTER, PREDICTIONS, TRACEBACK = "adapter.safetensors", "predictions.parquet", "traceback.txt"
FIT, CHECKPOINT, PROGRESS = "fit.json", "checkpoint.safetensors", "progress.json"
BEAT_SECONDS = 60  # how often a worker shows that it lives
STALE_SECONDS = 600  # a worker on another machine that hasn't shown itself for so long is taken for dead


class OtherVersion(UserError):
    """A record of another version of the schema, which is no damage."""


def read_record(folder: Path) -> Record | None:
    """The run's record, or None where it has none yet.

    Raises:
        UserError: the file is there but can't be read, isn't a record, or is one of another version.
    """
    path = folder / RESULT
    try:
        record: Record = read_json(path)
        record["state"], record["run_id"], record["identity"], record["config"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).\nMend that, or move its folder elsewhere.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(_damaged(path, str(error))) from error
    _check_version(record, path)
    if wrong := misfit(record, Record) or contradiction(record):
        raise UserError(_damaged(path, wrong))
    return record


def _damaged(path: Path, what: str) -> str:
    return f"{path} is not a run record ({what}).\nDelete its folder to run it again."


def readable_record(folder: Path) -> Record | None:
    """The run's record, None where it has none or one that can't be read."""
    try:
        return read_record(folder)
    except UserError:
        return None


def _check_version(record: Record, path: Path) -> None:
    version = record.get("schema_version", 1)  # the first version's failed runs didn't say
    if not isinstance(version, int):
        raise UserError(_damaged(path, f"schema_version is {version!r}"))
    if version < SCHEMA_VERSION:
        results_dir = next((folder.parent for folder in path.parents if folder.name == "runs"), path.parent)
        migration = command_line("src.results.migration", [f"results_dir={written(str(results_dir))}"])
        raise OtherVersion(
            f"{path} has record version {version}, this code reads {SCHEMA_VERSION}.\n"
            f"Bring the folder up to date: {migration}"
        )
    if version > SCHEMA_VERSION:
        raise OtherVersion(
            f"{path} has record version {version}, this code reads {SCHEMA_VERSION}.\n"
            "A newer version of the code wrote it: update yours (git pull), or choose another results_dir=..."
        )


def is_done(folder: Path) -> bool:
    """Say whether the run is finished and need not be run again, for which its record must be readable."""
    record = readable_record(folder)
    return record is not None and record["state"] == "done"


def run_folders(results_dir: Path) -> list[Path]:
    """The folders of all runs under `results_dir/runs`, also of those without a record yet, in order."""
    return folders_below(results_dir / "runs")


def folders_below(root: Path) -> list[Path]:
    """The folders of runs at or below a folder, in order, and those that can't be looked into, to be told of.

    Links are followed, as they are where a run's folder is named; what several paths lead to is there once.
    """
    found, seen, plain, links = list[Path](), set[tuple[int, int]](), [root], list[Path]()
    while plain or links:
        folder = plain.pop() if plain else links.pop()  # links last: a folder goes by its own path where it has one
        try:
            facts = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            found.append(folder)
            continue
        # By what the file system knows it by: a link may lead back to where it is.
        is_new = (facts.st_dev, facts.st_ino) not in seen
        seen.add((facts.st_dev, facts.st_ino))
        if is_new and not {RESULT, CONFIG, CLAIM}.isdisjoint(entry.name for entry in entries):
            found.append(folder)  # what lies in a run's folder, such as an export, is no run
        elif is_new:
            links += [folder / entry.name for entry in entries if entry.is_symlink()]
            plain += [folder / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return sorted(found)


def read_all(results_dir: Path) -> list[Record]:
    """All records under `results_dir/runs`, in the order of their folders' names."""
    return [record for folder in run_folders(results_dir) if (record := read_record(folder)) is not None]


def check_writable(results_dir: Path) -> None:
    """Make sure that results can be written, and that those already there can be read beside new ones.

    Raises:
        UserError: the folder can't be written, or holds a record of another version.
    """
    probe = results_dir / "runs" / f".probe-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(4096))  # on a full disk an empty file can be made
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"results_dir={results_dir} can't be written ({error.strerror}).\n"
            "Choose another with results_dir=..., or see to its permissions and its disk."
        ) from error
    for folder in run_folders(results_dir):
        try:
            read_record(folder)
        except OtherVersion:
            raise
        except UserError:  # one damaged record is a row of the tables, and no reason not to make others
            continue


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
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}, file)
    except OSError:
        claim.unlink(missing_ok=True)  # an empty one, as on a full disk, would hold the run for minutes
        raise
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
    text = _text(claim)
    return text is not None and not _is_dead(text, claim)


def _beat(claim: Path, ended: threading.Event) -> None:
    """Renew the claim's time until the run has ended; without a time given, that is the file system's own."""
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):  # a share that is away for a moment
            os.utime(claim)


def _text(claim: Path) -> str | None:
    """What a claim says; None where there is none."""
    try:
        return claim.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return ""  # somebody's, and nobody can tell whose


def _remove_if_dead(claim: Path) -> None:
    """Remove the claim of a worker that no longer lives."""
    text = _text(claim)
    if text is None or not _is_dead(text, claim):
        return
    aside = claim.with_name(f".{CLAIM}.{socket.gethostname()}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):  # another worker is removing it
        claim.rename(aside)
        if _text(aside) == text:
            aside.unlink()
        else:  # another worker removed the dead one's and made its own
            aside.rename(claim)


def _is_dead(text: str, claim: Path) -> bool:
    """Judge a claim: by its process on this machine, by its silence on another or where it is unreadable."""
    try:
        holder = json.loads(text)
        host, pid = str(holder["host"]), int(holder["pid"])
    # Being written at this moment, or left by a crash.
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return _silent_seconds(claim) > STALE_SECONDS
    if host != socket.gethostname():
        return _silent_seconds(claim) > STALE_SECONDS
    return pid == os.getpid() or not _lives(pid)


def _silent_seconds(claim: Path) -> float:
    """How long ago a claim was renewed, by the clock of the file system that both times are of.

    The clocks of two machines may lie further apart than a worker may be silent, so neither is asked.
    """
    probe = claim.with_name(f".clock.{socket.gethostname()}.{os.getpid()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - claim.stat().st_mtime
    except FileNotFoundError:  # the claim was released meanwhile
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    """Whether there is such a process, and not what is left of one that nobody has taken notice of."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False
