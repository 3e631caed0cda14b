"""The W&B mirror of a run. `result.json` is the truth: a run without W&B loses nothing.

W&B is asked by a process of its own (`src.running.mirror`), which is written to without waiting. Whatever happens
there, a run goes on: one line says that tracking stopped. What ends the tracking of one run is tried again with the
next; what each would meet, or would cost each its time, ends it for all.
"""

import io
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

from src.config.schema import TrackingConfig
from src.credentials import redacted
from src.errors import UserError

FINISH_SECONDS = 60.0  # for W&B to take in what a run logged
FAILED_SECONDS = 10.0  # the same where the run has failed, or the user waits for the program's end
SHOWN_CHARACTERS = 250  # of what W&B says
Say = Callable[[str], None]


class _Stopped(Exception):
    """Tracking can't go on; the message says why. `for_all`: the next run would meet the same."""

    def __init__(self, reason: str, *, for_all: bool = False) -> None:
        super().__init__(reason)
        self.for_all = for_all


class _Mirror:
    """The process that talks to W&B."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            # By its path and without its folder on `sys.path`: it needs nothing of this program.
            [sys.executable, "-P", str(Path(__file__).with_name("mirror.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # where an interrupt of this program doesn't reach it
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._requests, False)
        self._unread = b""
        self.owner = os.getpid()

    def ask(self, act: str, values: dict[str, Any]) -> None:
        """Hand a request over, without waiting for it to be read.

        Raises:
            _Stopped: the process has stopped reading.
            OSError: it is gone.
        """
        line = json.dumps({"act": act, **values}, default=str).encode() + b"\n"
        try:
            written = os.write(self._requests, line)
        except BlockingIOError:
            written = 0
        if written < len(line):
            raise _Stopped("its process has stopped reading", for_all=True)

    def answers(self, seconds: float) -> Iterator[dict[str, Any]]:
        """The answers that are there or come within so many seconds.

        Raises:
            _Stopped: the process is gone.
        """
        end = time.monotonic() + seconds
        while select.select([self._answers], [], [], max(0.0, end - time.monotonic()))[0]:
            read = os.read(self._answers, 65536)
            if not read:
                raise _Stopped("its process is gone")
            *lines, self._unread = (self._unread + read).split(b"\n")
            yield from map(json.loads, lines)

    def kill(self) -> None:
        """End the process at once, whatever it waits for."""
        self.process.kill()
        self.process.communicate()


class Tracker:
    """Passes metrics on to a W&B run, or to nothing; never raises.

    Args:
        mirror: None where the run isn't tracked.
        say: prints a line for the user.
    """

    of_all: _Mirror | None = None  # serves all runs of this program
    stopped_for_all = False

    def __init__(self, mirror: _Mirror | None = None, say: Say = print) -> None:
        self._mirror, self._say = mirror, say

    @classmethod
    def started(cls, say: Say, run: dict[str, Any]) -> "Tracker":
        """A tracker whose run begins with the mirror's next answer; one of nothing where tracking has ended."""
        if cls.stopped_for_all:
            return cls()
        tracker = cls(None, say)
        if cls.of_all and cls.of_all.owner != os.getpid():  # a launcher forked: the mirror is the first one's
            cls.of_all = None
        try:
            tracker._mirror = cls.of_all = cls.of_all or _Mirror()
        except OSError as error:  # no process can be started, or no pipe opened
            tracker._stop(error)
        tracker._do("start", run)
        return tracker

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics at a training step."""
        self._do("log", {"step": step, "metrics": metrics})

    def summarize(self, values: dict[str, Any]) -> None:
        """Record the run's final values."""
        self._do("summarize", {"values": values})

    def finish(self, exit_code: int, seconds: float) -> None:
        """End the run in W&B, for which it has so many seconds."""
        self._do("finish", {"exit_code": exit_code}, seconds)

    def _do(self, act: str, values: dict[str, Any], seconds: float | None = None) -> None:
        """Ask the mirror for something; with `seconds`, wait so long for the run to be finished."""
        if self._mirror is None:
            return
        try:
            try:
                self._mirror.ask(act, values)
            except OSError:  # it is gone, and may have said why
                self._read(self._mirror, 0.0)
                raise
            if not self._read(self._mirror, seconds or 0.0) and seconds is not None:
                raise _Stopped(f"it didn't finish within {seconds:.0f} s", for_all=True)
        except (_Stopped, OSError, ValueError) as error:
            self._stop(error)

    def _read(self, mirror: _Mirror, seconds: float) -> bool:
        """Take in answers until there are none, or the run is finished, which is returned.

        Raises:
            _Stopped: W&B raised something.
        """
        for answer in mirror.answers(seconds):
            if "stopped" in answer:
                raise _Stopped(answer["stopped"], for_all=answer["act"] == "start")
            if "note" in answer:
                self._say(_line(answer["note"]))
            if "finished" in answer:
                return True
        return False

    def _stop(self, error: Exception) -> None:
        """End the tracking of this run, or of all, and say so."""
        if self._mirror is not None:
            self._mirror.kill()
        self._mirror = Tracker.of_all = None
        Tracker.stopped_for_all = getattr(error, "for_all", True)
        which = "this run and those after it are" if Tracker.stopped_for_all else "this run is"
        self._say(f"W&B: {_line(str(error))}: {which} no longer tracked, which changes no result")


def _line(text: str) -> str:
    return " ".join(redacted(text).split())[:SHOWN_CHARACTERS]


@contextmanager
def tracked(
    settings: TrackingConfig, *, run_id: str, name: str, group: str, folder: Path, config: dict[str, Any], say: Say
) -> Iterator[Tracker]:
    """Track one run; it ends as failed in W&B where the block raises.

    Where W&B can't be reached, the run goes on and is tracked offline, and so are those after it.

    Args:
        run_id: the same for the same run, so that a repetition replaces it.
        group: W&B's group, the same for all runs of a sweep.
        folder: where W&B's files go.
        say: prints a line for the user.
    """
    mode = tracking_mode(settings)
    if mode == "none":
        yield Tracker()
        return
    run = {"project": settings.project, "id": run_id, "name": name, "group": group, "config": config}
    tracker = Tracker.started(say, {"mode": mode, "folder": str(folder.absolute()), "run": run})
    try:
        yield tracker
    # An interrupt too: in W&B such a run has failed.
    except BaseException:
        tracker.finish(1, FAILED_SECONDS)
        raise
    tracker.finish(0, FINISH_SECONDS)


def tracking_mode(settings: TrackingConfig) -> str:
    """The config's mode, or less where the environment's WANDB_MODE is "disabled" or "offline"."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if settings.mode == "none" or asked == "disabled":
        return "none"
    return "offline" if asked in ("offline", "dryrun") else settings.mode


def check_tracking(settings: TrackingConfig) -> None:
    """Make sure that W&B can be asked as the config says, without asking it.

    Raises:
        UserError: online tracking without a key.
    """
    if tracking_mode(settings) != "online" or os.environ.get("WANDB_API_KEY"):
        return
    import wandb

    key = None
    # Without a home there is no file that could hold one; and W&B warns of asking it in the way that all versions have.
    with suppress(Exception), redirect_stderr(io.StringIO()):
        key = wandb.api.api_key
    if not key:
        raise UserError(
            "tracking=wandb_online needs a key.\nRun `wandb login`, set WANDB_API_KEY, or use tracking=none."
        )
