"""The workers of a sweep: this process alone, or processes beside it that each do one run at a time.

On a CPU two runs with a thread each are done sooner than one after the other with two threads: a small model's matrices
leave a second thread little to do (`benchmarks/workers.json`). What a worker's runs print goes to the sweep, which
prints it. Runs are claimed as between copies of a command, so that a worker that dies loses its run alone.
"""

import io
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

from src.config.schema import Config
from src.interrupts import SIGNALS, interruptible
from src.running.board import Board
from src.running.inputs import folder_of
from src.running.lifecycle import run
from src.running.progress import Screen, shown_on
from src.running.sweep import UNRECORDED, Plan
from src.running.worker_count import SAYS_THREADS, threads_each

PATIENCE_SECONDS = 300.0  # for interrupted workers to end the step under way and keep a checkpoint


@dataclass(frozen=True)
class Ended:
    """A run that a worker was at, with its state and the seconds that it took."""

    config: Config
    state: str
    seconds: float


class ThisProcess:
    """The only worker of a sweep: a run is done while it is begun."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ended: list[Ended] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    @property
    def is_busy(self) -> bool:
        """Whether there is a run whose end wasn't asked for."""
        return bool(self._ended)

    is_full = is_busy

    def begin(self, config: Config) -> None:
        """Do a run."""
        begun = time.monotonic()
        self._ended.append(Ended(config, run(config, self._plan), time.monotonic() - begun))

    def ended(self) -> Ended:
        """The run that was done."""
        return self._ended.pop()


@dataclass(frozen=True)
class _Said:
    """What a worker's run says: a line that stays, or one that is to be replaced."""

    text: str
    stays: bool = True
    once: bool = False


@dataclass(frozen=True)
class _End:
    """How a worker's run ended, and why it left no record."""

    state: str
    reason: str = ""


@dataclass
class _Worker:
    """A process, and the run that it is at."""

    number: int
    process: BaseProcess
    connection: Connection
    config: Config | None = None
    begun: float = 0.0


class Processes:
    """Workers that are processes, each started when it is first needed."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._workers: list[_Worker] = []
        self._board = Board()

    def __enter__(self) -> Self:
        self._board.open()
        return self

    def __exit__(self, kind: object, *raised: object) -> None:
        try:
            while self.is_busy and kind in (None, GeneratorExit):
                self.ended()
            self._let_go(at_once=kind not in (None, GeneratorExit))
        finally:
            self._board.close()

    @property
    def is_full(self) -> bool:
        """Whether as many runs are under way as there may be workers."""
        return sum(worker.config is not None for worker in self._workers) == self._plan.workers

    @property
    def is_busy(self) -> bool:
        """Whether a run is under way."""
        return any(worker.config for worker in self._workers)

    def begin(self, config: Config) -> None:
        """Give a run to a worker that has none."""
        worker = next((worker for worker in self._workers if worker.config is None), None) or self._started()
        worker.config, worker.begun = config, time.monotonic()
        with suppress(OSError):  # it has died, which shows when it is listened to
            worker.connection.send(config)

    def ended(self) -> Ended:
        """The next run that ends, also by its worker's death; until then what the workers say is shown."""
        while True:
            for worker, end in self._heard():
                config, worker.config = worker.config, None
                if config is None:
                    continue
                self._board.show_of(worker.number, "")
                if end.reason:
                    UNRECORDED[str(folder_of(config))] = end.reason
                return Ended(config, end.state, time.monotonic() - worker.begun)

    def _heard(self, patience: float | None = None) -> Iterator[tuple[_Worker, _End]]:
        """Show what workers say, and tell of runs that ended; a worker that is gone is one no more."""
        for readable in wait([worker.connection for worker in self._workers], timeout=patience):
            (worker,) = [worker for worker in self._workers if worker.connection is readable]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                self._workers.remove(worker)
                worker.process.join()
                message = self._death_of(worker)
            if isinstance(message, _End):
                yield worker, message
            elif message.stays:
                self._board.say(message.text, once=message.once)
            else:
                self._board.show_of(worker.number, message.text)

    def _death_of(self, worker: _Worker) -> _End:
        code = worker.process.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        hint = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
        reason = f"its worker ended {how}{hint}"
        if worker.config:
            self._board.say(f"failed: {folder_of(worker.config).name}: {reason}")
        return _End("failed", reason)

    def _started(self) -> _Worker:
        from src.training.device import MEASURED  # heavy

        context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, self._plan, MEASURED, sys.orig_argv))
        with _threads(threads_each(self._plan.workers)), _signals_held():
            process.start()
        there.close()  # so that the pipe ends where the process does
        numbers = {worker.number for worker in self._workers}
        self._workers.append(_Worker(min(set(range(self._plan.workers)) - numbers), process, here))
        return self._workers[-1]

    def _let_go(self, *, at_once: bool) -> None:
        """Let the workers end, and hear them until they have."""
        for worker in self._workers:
            worker.config = None
            if at_once:
                worker.process.terminate()
            with suppress(OSError):
                worker.connection.send(None)
        last = time.monotonic() + PATIENCE_SECONDS
        while self._workers and (patience := last - time.monotonic()) > 0:
            list(self._heard(patience))
        for worker in self._workers:
            worker.process.kill()


Workers = ThisProcess | Processes


def workers_of(plan: Plan) -> Workers:
    """As many workers as the plan says; a block of them ends when the runs that were begun have ended."""
    return ThisProcess(plan) if plan.workers == 1 else Processes(plan)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let processes that are started in the block compute with so many threads."""
    before = os.environ.get(SAYS_THREADS)
    os.environ.setdefault(SAYS_THREADS, str(count))
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAYS_THREADS]


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let processes that are started in the block get no signal before they ask for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Remote(Screen):
    """A worker's screen: the sweep's, by way of their pipe."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._lock = threading.Lock()
        self._is_heard = True

    def show(self, text: str) -> None:
        """Replace the worker's line."""
        self.tell(_Said(text, stays=False))

    def say(self, text: str, *, once: bool = False) -> None:
        """Print a line that stays."""
        self.tell(_Said(text, once=once))

    def tell(self, message: _Said | _End) -> None:
        """Tell the sweep; where that is gone the worker ends as by an interrupt."""
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            if self._is_heard:
                self._is_heard = False
                os.kill(os.getpid(), signal.SIGTERM)


class _Lines(io.TextIOBase):
    """A worker's standard output: its lines are said."""

    def __init__(self, remote: _Remote) -> None:
        self._remote = remote
        self._begun = ""

    def write(self, text: str) -> int:
        """Say the lines that are whole."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._remote.say(line)
        return len(text)


def _work(connection: Connection, plan: Plan, measured: dict[str, float], command: list[str]) -> None:
    """A worker's process: do the runs that the sweep sends, until it sends none or is gone."""
    from src.training.device import MEASURED

    MEASURED.update(measured)
    sys.orig_argv = command  # which records say made them
    remote: Any = _Remote(connection)
    sys.stdout = _Lines(remote)
    with interruptible(""), shown_on(remote), suppress(EOFError):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        while (config := connection.recv()) is not None:
            state = run(config, plan)
            remote.tell(_End(state, UNRECORDED.get(str(folder_of(config)), "")))
