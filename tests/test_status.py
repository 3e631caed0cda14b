"""Where runs stand, told from what each left; and those that ended otherwise done again as they were."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from src.config.schema import Config
from src.results.standing import STANDINGS, Standing, note_progress, standings
from src.results.store import CHECKPOINT, CLAIM, CONFIG, RESULT, read_record
from src.running.inputs import folder_of
from src.running.lifecycle import run
from src.running.sweep import Plan
from src.status import status_lines
from tests.conftest import run_here
from tests.test_resume import ALWAYS, SHORT, cut_off, outcome

Make = Callable[..., Config]
ONE = ["adapter=lora", *SHORT, "forgetting=none"]


@pytest.fixture
def living() -> Iterator[int]:
    """A process that lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.wait()


def claim(folder: Path, pid: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CLAIM).write_text(json.dumps({"host": socket.gethostname(), "pid": pid, "started": 0}))


def by_name(results_dir: Path) -> dict[str, Standing]:
    return {one.folder.name: one for one in standings(results_dir)}


@pytest.fixture
def folder(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, living: int) -> Path:
    """A results folder with a run in each state, named by it; the one that was cut off has its own name."""
    config = tiny(*ONE, ALWAYS)
    cut_off(config, 3, monkeypatch)
    done = tiny(*ONE, "seed=1")
    assert run(done, Plan.of([done])) == "done"
    runs = folder_of(done).parent
    for state in ("failed", "diverged", "out_of_memory", "interrupted"):
        shutil.copytree(folder_of(done), runs / state)
        record = json.loads((runs / state / RESULT).read_text())
        record |= {"run_id": state, "state": state, "error": {"class": "Error", "message": f"why {state}\nmore"}}
        kept = ("schema_version", "run_id", "state", "identity", "config", "error")
        (runs / state / RESULT).write_text(json.dumps({key: record[key] for key in kept}))
    claim(runs / "running", living)
    note_progress(runs / "running", 30, 200, 85.0)
    claim(runs / "died", pid=2**22 + 1)
    shutil.copytree(folder_of(done), runs / "unreadable")
    (runs / "unreadable" / RESULT).write_text("{")
    Plan("g", [str(runs / "running"), str(runs / "to come")], []).write(tmp_path / "sweeps" / "one")
    return tmp_path


def test_every_state_is_told_with_its_reason(folder: Path) -> None:
    found = by_name(folder)
    done, cut = (next(one for name, one in found.items() if f"-s{seed}-" in name) for seed in (1, 0))
    assert done.state == "done"
    assert (cut.state, cut.reason) == ("cut off", "goes on after step 3")
    assert (found["died"].state, found["died"].reason) == ("cut off", "starts over")
    assert found["to come"].state == "waiting"
    running = found["running"]
    assert (running.state, running.step, running.max_steps) == ("running", 30, 200)
    assert running.seconds == pytest.approx(85, abs=60)
    for state in ("failed", "diverged", "out_of_memory", "interrupted"):
        assert (found[state].state, found[state].reason) == (state, f"why {state}")
    assert found["unreadable"].state == "unreadable"
    assert {one.state for one in found.values()} == set(STANDINGS)


def test_the_command_counts_them_and_says_what_to_do(folder: Path) -> None:
    done = run_here("src.status", f"results_dir={folder}")
    first, *lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert first.startswith(
        f"{folder}: 10 runs: 1 done, 1 unreadable, 1 diverged, 1 out of memory, 1 failed, 1 interrupted, 2 cut off, "
        "1 waiting, 1 running; "
    )
    assert any("running" in line and "step 30/200" in line and " s left" in line for line in lines)
    assert lines[-1] == f"again: python -m src.retry results_dir={folder}"
    assert len(lines) == 10


def test_many_runs_of_a_state_are_not_listed_one_by_one(tmp_path: Path) -> None:
    Plan("g", [str(tmp_path / "runs" / f"run{index}") for index in range(5000)], []).write(tmp_path / "sweeps" / "one")
    lines, _ = status_lines(tmp_path)
    assert len(lines) == 42
    assert lines[-1] == "waiting      and 4,960 more"


def test_runs_of_another_folder_in_a_plan_are_not_told(tmp_path: Path) -> None:
    Plan("g", ["/elsewhere/runs/a", str(tmp_path / "runs/../../b")], []).write(tmp_path / "sweeps" / "one")
    (tmp_path / "sweeps" / "two").mkdir()
    (tmp_path / "sweeps" / "two" / "plan.json").write_text("[1")
    assert standings(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["src.status", "results_dir={}/nowhere"], "holds no runs"),
        (["src.status", "--wacth"], "--wacth is not an option"),
        (["src.status", "results_dir={}", "rank=8"], "rank is not an option"),
        (["src.retry", "results_dir={}", "lora-r9"], "lora-r9 is no run in"),
        (["src.retry", "results_dir={}", "running"], "running is running"),
        (["src.retry", "results_dir={}", "workers=0"], "workers=0 is not a whole number above 0"),
        (["src.retry", "results_dir={}/nowhere"], "has no run to do again"),
        (["src.retry", "results_dir={}", "unreadable"], "None of these runs can be done again as it was"),
        (["src.retry", "results_dir={}", "--all"], "--all is not a flag here"),
    ],
)
def test_a_mistake_is_answered_in_a_few_lines(arguments: list[str], said: str, folder: Path) -> None:
    module, *rest = [argument.format(folder) for argument in arguments]
    done = run_here(module, *rest)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_what_was_cut_off_is_done_again_as_it_was(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny(*ONE, ALWAYS)
    cut_off(config, 3, monkeypatch)
    again = run_here("src.retry", f"results_dir={tmp_path}")
    assert again.returncode == 0, again.stderr
    assert "goes on after step 3" in again.stdout
    whole = tiny(*ONE)
    cut = outcome(config)
    shutil.rmtree(folder_of(config))
    assert run(whole, Plan.of([whole])) == "done"
    assert outcome(whole) == cut
    assert not list(tmp_path.rglob(CHECKPOINT))


def test_a_run_of_other_code_is_left(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(*ONE, ALWAYS)
    cut_off(config, 3, monkeypatch)
    other = folder_of(config).with_name("lora-r2-all_linear-s0-00000000")
    folder_of(config).rename(other)
    done = run_here("src.retry", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert f"left: {other.name}: its code, data or settings are others today" in done.stdout
    assert read_record(other) is None
    assert (other / CONFIG).exists()


def test_watching_ends_when_nothing_is_under_way(tiny: Make, tmp_path: Path) -> None:
    config = tiny(*ONE)
    assert run(config, Plan.of([config])) == "done"
    done = run_here("src.status", f"results_dir={tmp_path}", "--watch")
    assert (done.returncode, done.stdout.count("runs: 1 done")) == (0, 1)
