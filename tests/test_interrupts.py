"""What ends a program from outside: the statuses, and that what must be written down is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.interrupts import (
    RESUMES,
    SIGNALS,
    end_if_interrupted,
    interruptible,
    interrupts_wait,
    note_end,
    uninterrupted,
    was_interrupted,
)
from src.results.store import RESULT, read_all
from tests.conftest import HANG_SECONDS, ROOT, TINY


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Signals as a terminal's programs have them: one that runs behind, or under `nohup`, ignores some."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupted(number: int) -> None:
    """A block of work that a signal ends."""
    with interruptible(RESUMES):
        os.kill(os.getpid(), number)
        time.sleep(10)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_block_with_the_shells_status(
    number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        interrupted(number)
    assert ended.value.code == status
    assert "finished runs are kept" in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_a_second_signal_does_not_keep_the_first_from_being_written_down() -> None:
    written = []

    def record() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            note_end()
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            written.append("record")
            raise

    with pytest.raises(SystemExit), interruptible():
        record()
    assert written == ["record"]
    with pytest.raises(SystemExit):  # and the next block can be interrupted again
        interrupted(signal.SIGINT)


def test_an_interrupt_that_a_library_makes_another_exception_of_is_one() -> None:
    def imports() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    with pytest.raises(SystemExit) as ended, interruptible():
        imports()
    assert ended.value.code == 143
    with pytest.raises(ImportError), interruptible():  # without a signal it is what it is
        raise ImportError


def test_an_interrupt_waits_where_it_is_told_to_and_a_second_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []

    def work(signals: int, seconds: float) -> None:
        clock = iter([100 + seconds * index for index in range(9)])
        monkeypatch.setattr("src.interrupts.time.monotonic", lambda: next(clock))
        with interruptible(), interrupts_wait():
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
            reached.append((signals, was_interrupted()))
            end_if_interrupted()
            reached.append((signals, False))

    work(0, seconds=5)
    for signals, seconds in ((1, 5), (2, 0.1), (2, 5)):  # as a terminal and a parent send it at once
        with pytest.raises(SystemExit) as ended:
            work(signals, seconds)
        assert ended.value.code == 143
    assert reached == [(0, False), (0, False), (1, True), (2, True)]


def test_within_what_waits_a_part_may_be_interrupted_at_once() -> None:
    def work() -> None:
        with interrupts_wait():
            os.kill(os.getpid(), signal.SIGTERM)
            with interrupts_wait(wait=False):
                pytest.fail("there was one before")

    with pytest.raises(SystemExit), interruptible():
        work()

    def within() -> None:
        with interrupts_wait(), interrupts_wait(wait=False):
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it waited")

    with pytest.raises(SystemExit), interruptible():
        within()


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_block_that_must_end_is_not_interrupted() -> None:
    with interruptible():
        outside = signal.getsignal(signal.SIGTERM)
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == outside != signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize(("number", "times", "status"), [("SIGTERM", 1, 143), ("SIGINT", 3, 130), ("SIGHUP", 2, 129)])
def test_an_interrupted_sweep_ends_with_records_and_its_table(
    number: str, times: int, status: int, tmp_path: Path
) -> None:
    common = [*TINY, "trainer.max_steps=100000", f"results_dir={tmp_path}", f"cache_dir={tmp_path}"]
    code = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "  # not as a shell's job
    code += "runpy.run_module('src.run', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, "-m", "adapter=lora", "rank=2,4", *common]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.rglob("claim.json")):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(2)
    for _ in range(times):
        process.send_signal(getattr(signal, number))
        time.sleep(0.02)
    out, error = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == status
    assert [record["state"] for record in read_all(tmp_path)] == ["interrupted"]
    assert not list(tmp_path.rglob("claim.json"))
    assert "interrupted: lora-r2" in out
    assert "not run: lora-r4" in out
    assert f"runs: {next(tmp_path.rglob(RESULT)).parents[1]}" in out
    assert "the same command goes on from here" in error
    assert "Traceback" not in error
