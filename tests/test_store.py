"""The store: whole files or none, one worker a run, no mixing of versions."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from src import files
from src.errors import UserError
from src.results import store
from src.results.schema import SCHEMA_VERSION
from tests.conftest import HANG_SECONDS, ROOT


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "result.json"

    def write_half() -> None:
        with files.replacing(target) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    files.write_json(target, {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(target, {"value": float("nan")})
    assert json.loads(target.read_text()) == {"value": 1}


def test_a_run_is_claimed_by_one_worker_and_released(tmp_path: Path) -> None:
    with store.claimed(tmp_path) as mine:
        assert mine
        assert (tmp_path / store.CLAIM).exists()
    assert not (tmp_path / store.CLAIM).exists()


def test_a_living_worker_keeps_its_claim(tmp_path: Path) -> None:
    claim = {"host": os.uname().nodename, "pid": os.getppid(), "started": time.time()}
    (tmp_path / store.CLAIM).write_text(json.dumps(claim))
    with store.claimed(tmp_path) as mine:
        assert not mine
    assert json.loads((tmp_path / store.CLAIM).read_text()) == claim


def test_a_dead_workers_claim_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / store.CLAIM).write_text(json.dumps({"host": os.uname().nodename, "pid": dead.pid, "started": 0}))
    with store.claimed(tmp_path) as mine:
        assert mine


@pytest.mark.parametrize(("age_seconds", "free"), [(1, False), (store.STALE_SECONDS + 60, True)])
def test_a_worker_elsewhere_counts_as_dead_after_a_silence(tmp_path: Path, age_seconds: float, free: bool) -> None:
    claim = tmp_path / store.CLAIM
    claim.write_text(json.dumps({"host": "another-machine", "pid": 1, "started": 0}))
    os.utime(claim, (time.time() - age_seconds,) * 2)
    with store.claimed(tmp_path) as mine:
        assert mine is free


def test_a_working_worker_renews_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BEAT_SECONDS", 0.01)
    with store.claimed(tmp_path):
        os.utime(tmp_path / store.CLAIM, (0, 0))
        deadline = time.monotonic() + HANG_SECONDS
        while (tmp_path / store.CLAIM).stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / store.CLAIM).stat().st_mtime > time.time() - HANG_SECONDS


CLAIMING = """
import sys
from pathlib import Path
from src.results.store import claimed
print("ready", flush=True)
input()
with claimed(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    input()
"""


def said(workers: list["subprocess.Popen[str]"]) -> list[str]:
    """The next line of each."""
    return [worker.stdout.readline().strip() for worker in workers if worker.stdout is not None]


def tell(workers: list["subprocess.Popen[str]"]) -> None:
    """Let each go on."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_many_workers_that_start_together_one_gets_the_run(tmp_path: Path, left_behind: bool) -> None:
    if left_behind:
        claim = {"host": os.uname().nodename, "pid": 2**22 + 1, "started": 0}
        (tmp_path / store.CLAIM).write_text(json.dumps(claim))
    arguments = [sys.executable, "-c", CLAIMING, str(tmp_path)]
    pipe = subprocess.PIPE
    with ExitStack() as open_pipes:
        processes = (subprocess.Popen(arguments, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for _ in range(6))
        workers = [open_pipes.enter_context(process) for process in processes]
        assert said(workers) == ["ready"] * 6
        tell(workers)
        assert sorted(said(workers)) == ["False"] * 5 + ["True"]  # while the one that has it keeps it
        tell(workers)
    assert [worker.returncode for worker in workers] == [0] * 6
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / store.RESULT).write_text('{"state": "do')
    with pytest.raises(UserError, match=r"result\.json is not a run record"):
        store.read_record(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(UserError, match=r"results_dir=/proc/nowhere can't be written .*\nChoose another"):
        store.check_writable(Path("/proc/nowhere"))


@pytest.mark.parametrize(
    ("version", "remedy"),
    [(None, r"python -m src\.results\.migration results_dir=/"), (SCHEMA_VERSION + 1, "git pull")],
)
def test_records_of_another_version_are_refused_with_the_command_that_helps(
    tmp_path: Path, version: int | None, remedy: str
) -> None:
    record: dict[str, Any] = {"run_id": "a-run", "state": "done", "identity": {}, "config": {}}
    record |= {"schema_version": version} if version else {}
    (tmp_path / "runs/a-run").mkdir(parents=True)
    files.write_json(tmp_path / "runs/a-run" / store.RESULT, record)
    with pytest.raises(UserError, match=rf"a-run/result.json has record version (.|\n)*{remedy}"):
        store.check_writable(tmp_path)
