"""A sweep's workers: as many as fit, with the results of one, and a worker that dies loses its run alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.adapters.lora import LoRA
from src.config.arguments import split_workers
from src.config.schema import Config
from src.errors import UserError
from src.files import read_json
from src.results.digests import tensor_digests
from src.results.store import ADAPTER, CLAIM, RESULT, read_all, run_folders
from src.running import worker_count as counting
from src.running.board import Board
from src.running.launch import run_sweep
from src.running.worker_count import LIBRARIES_BYTES, threads_each, usable_cores, worker_count
from tests.conftest import HANG_SECONDS, ROOT, TINY, run_here
from tests.test_console import terminal

Make = Callable[..., Config]
SHORT = [*TINY, "trainer.eval_limit=4", "forgetting=none", "target=qv"]


class Killed(LoRA):
    """A method whose process the system ends, as it does where memory runs out."""

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A machine of eight cores with plenty of memory, and nothing said of threads."""
    facts = SimpleNamespace(cores=8, memory=10**15, quota=tmp_path / "cpu.max")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(counting, "CPU_QUOTA", facts.quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(facts.cores), raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=facts.memory))
    return facts


def test_there_is_a_worker_for_each_core_and_each_run(machine: SimpleNamespace, tiny: Make) -> None:
    config = tiny()
    assert [worker_count(None, [config] * runs) for runs in (0, 1, 3, 8, 100)] == [1, 1, 3, 8, 8]
    assert [threads_each(workers) for workers in (1, 3, 8, 100)] == [8, 2, 1, 1]


def test_what_the_user_says_counts(machine: SimpleNamespace, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [tiny()] * 5
    assert [worker_count(asked, configs) for asked in (1, 3, 100)] == [1, 3, 100]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [worker_count(asked, configs) for asked in (None, 3)] == [1, 3]
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [worker_count(asked, configs) for asked in (None, 3)] == [1, 3]


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("?", 8)]
)
def test_a_containers_quota_counts(machine: SimpleNamespace, quota: str, cores: int) -> None:
    machine.quota.write_text(f"{quota}\n")
    assert usable_cores() == cores


def test_there_are_no_more_workers_than_memory_for_the_largest_run(machine: SimpleNamespace, tiny: Make) -> None:
    configs = [tiny(f"rank={rank}", "trainer.batch_size=512", "task.max_length=56") for rank in (1, 4, 8)] * 3
    machine.memory = LIBRARIES_BYTES
    assert worker_count(None, configs) == 1
    # 512 texts of 64 tokens take some hundred megabytes, beside the libraries.
    machine.memory = int(4.2 * LIBRARIES_BYTES)
    assert worker_count(None, configs) == 2


def test_runs_whose_memory_cannot_be_told_are_done_one_at_a_time(
    machine: SimpleNamespace, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a model that looks at its numbers")

    monkeypatch.setattr("src.models.base_model.empty_model", fail)
    assert worker_count(None, [tiny()] * 5) == 1
    assert worker_count(3, [tiny()] * 5) == 3


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1,2", "''"])
def test_a_number_of_workers_that_is_none(value: str) -> None:
    if value == "''":
        assert split_workers([f"workers={value}"])[0] is None
        return
    with pytest.raises(UserError, match="workers"):
        split_workers([f"workers={value}"])


def test_workers_beside_a_launcher_are_refused() -> None:
    with pytest.raises(UserError, match=r"workers=2 .*\nLeave it out beside hydra/launcher=basic"):
        run_sweep([*SHORT, "hydra/launcher=basic"], workers=2)


def test_workers_of_a_single_run_are_refused() -> None:
    done = run_here("src.run", *SHORT, "adapter=lora", "workers=2")
    assert done.returncode == 2
    assert "workers=2 is of a sweep, and this is one run.\nAdd -m" in done.stderr


def test_several_lines_are_rewritten_in_place_and_what_is_said_stays_above(monkeypatch: Any) -> None:
    with terminal(40, monkeypatch) as printed:
        board = Board()
        board.open()
        board.show_of(1, "second at step 1")
        board.show_of(0, "first at step 1, with a text that is longer than the terminal is wide")
        board.say("a warning", once=True)
        board.show_of(0, "first at\nstep 2")
        board.say("a warning", once=True)
        board.show_of(1, "")
        board.say("second done")
        board.close()
    text = printed[0]
    assert text.count("a warning") == 1
    assert "first at step 1, with a text that is l" in text
    assert "longer" not in text
    assert [row.strip() for row in screen_of(text) if row.strip()] == ["a warning", "second done"]


def screen_of(text: str) -> list[str]:
    """What a terminal shows at the end, of a text that goes up and clears lines."""
    rows, row = [""], 0
    for hidden in ("\x1b[?25l", "\x1b[?25h"):
        text = text.replace(hidden, "")
    for part in text.replace("\x1b[1A", "\x02").replace("\x1b[2K", "\x03"):
        if part == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif part == "\x02":
            row -= 1
        elif part == "\x03":
            rows[row] = ""
        elif part != "\r":
            rows[row] += part
    return rows


def test_where_nothing_can_be_rewritten_only_what_stays_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board()
    board.open()
    board.show_of(0, "loading")
    board.say("done")
    board.close()
    assert capsys.readouterr().out == "done\n"


def outcomes(results_dir: Path) -> dict[str, Any]:
    """Of each run all that isn't time: its scores, history without seconds, and the tensors that were trained."""
    return {
        folder.name: (
            record["metrics"],
            [point["step"] for point in record["history"]],
            tensor_digests(folder / ADAPTER),
        )
        for folder in run_folders(results_dir)
        if (record := read_json(folder / RESULT))["state"] == "done"
    }


@pytest.mark.slow
def test_runs_of_several_workers_are_those_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = [*SHORT, f"cache_dir={tmp_path}", "adapter=lora,lora_fa", "rank=1,3", "seed=0"]
    assert run_sweep([*sweep, f"results_dir={tmp_path / 'one'}"], workers=1)
    capsys.readouterr()
    assert run_sweep([*sweep, f"results_dir={tmp_path / 'two'}"], workers=2)
    assert outcomes(tmp_path / "two") == outcomes(tmp_path / "one")
    assert len(outcomes(tmp_path / "two")) == 4
    out = capsys.readouterr().out
    assert "2 runs at once, 1 thread each" in out
    assert out.count(" s\n") + out.count(" left)\n") >= 4
    assert not list(tmp_path.rglob(CLAIM))
    assert {record["provenance"]["command"] for record in read_all(tmp_path / "two")} == {
        record["provenance"]["command"] for record in read_all(tmp_path / "one")
    }


@pytest.mark.slow
def test_a_worker_that_dies_loses_its_run_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed = ["adapter.name=killed", f"adapter.method={__name__}.Killed"]
    sweep = [*SHORT, f"cache_dir={tmp_path}", f"results_dir={tmp_path}", "adapter=lora", "rank=1,2,3"]
    assert not run_sweep([*sweep, *killed], workers=2)
    assert read_all(tmp_path) == []
    out = capsys.readouterr().out
    assert out.count("its worker ended by SIGKILL, as the system does where memory runs out") >= 3
    # What a dead worker claimed is free, and the same folder takes other runs.
    assert run_sweep(sweep, workers=2)
    assert len(read_all(tmp_path)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_sweep(number: signal.Signals, tmp_path: Path) -> None:
    sweep = [*SHORT, "trainer.max_steps=100000", f"cache_dir={tmp_path}", f"results_dir={tmp_path}", "rank=1,2,3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "src.run", "-m", "adapter=lora", "workers=2", *sweep],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: len(list(tmp_path.rglob(CLAIM))) == 2 or process.poll() is not None)
    holders = [read_json(claim)["pid"] for claim in tmp_path.rglob(CLAIM)]
    process.send_signal(number)
    out, err = process.communicate(timeout=HANG_SECONDS)
    wait_for(lambda: not any(map(lives, holders)))
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert sorted(record["state"] for record in read_all(tmp_path)) == ["interrupted"] * 2
    assert not list(tmp_path.rglob(CLAIM))
    if number != signal.SIGKILL:
        assert err == "\ninterrupted: finished runs are kept, the same command goes on from here\n"
        assert out.count("interrupted") >= 2


def wait_for(condition: Callable[[], bool]) -> None:
    last = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.1)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
