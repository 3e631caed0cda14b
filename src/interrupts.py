"""What ends the program from outside: the user's interrupt, a scheduler's SIGTERM, a terminal that is closed."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESUMES = "finished runs are kept, the same command goes on from here"
AT_ONCE_SECONDS = 1.0  # signals so near to each other are one, as a terminal's that a parent passes on too
_received: list[int] = []  # signals since the block began
_last = float("-inf")  # when the last of them came
_ending = False
_waiting = False


@contextmanager
def interruptible(comfort: str = "no file is half-written") -> Iterator[None]:
    """End the program with a word of comfort where the user, or a scheduler, interrupts the block.

    The status is the shell's for the signal: 130 for an interrupt, 143 for SIGTERM.

    Args:
        comfort: empty where another process says it.
    """
    global _ending, _last
    _ending, _last = False, float("-inf")

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _last
        before, _last = _last, time.monotonic()
        if not _ending and _last - before > AT_ONCE_SECONDS:
            _received.append(number)
            if len(_received) > 1 or not _waiting:
                raise KeyboardInterrupt

    # What is ignored stays so: `nohup` ignores the terminal's end.
    ours = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in ours}
    try:
        yield
    except BaseException as error:
        if not (isinstance(error, KeyboardInterrupt) or was_interrupted()):
            raise
        if comfort:
            print(f"\ninterrupted: {comfort}", file=sys.stderr)
        sys.exit(128 + (_received or [signal.SIGINT])[-1])
    finally:
        _ending = False
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def was_interrupted() -> bool:
    """Say whether a signal came, also where a library made another exception of it, as a failed import is one."""
    return bool(_received)


@contextmanager
def interrupts_wait(*, wait: bool = True) -> Iterator[None]:
    """Let an interrupt in the block wait for `end_if_interrupted`, or no longer; a second one never waits."""
    global _waiting
    before, _waiting = _waiting, wait
    try:
        if not wait:
            end_if_interrupted()
        yield
    finally:
        _waiting = before


def end_if_interrupted() -> None:
    """Let an interrupt that waits take its effect.

    Raises:
        KeyboardInterrupt: there is one.
    """
    if was_interrupted() and not _ending:
        raise KeyboardInterrupt


def note_end() -> None:
    """Say that an interrupt has been taken in and the program is ending, which a second one can't hasten."""
    global _ending
    _ending = True


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the block end, as it writes down how a run ended; further interrupts are without effect meanwhile."""
    if threading.current_thread() is not threading.main_thread():  # which is never interrupted
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
