"""The W&B mirror: what reaches it, and that nothing which happens there reaches the run."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import TrackingConfig
from src.errors import UserError
from src.running import tracking
from src.running.tracking import Tracker, check_tracking, tracked, tracking_mode
from tests.conftest import HANG_SECONDS

# In W&B's place, in the mirror's process: notes every call, and misbehaves where FAKE_WANDB says so.
FAKE = """
import json, os, sys, time

class errors:
    class Error(Exception): pass

class Settings:
    def __init__(self, **values): self.values = values

def note(what, **values):
    print("W&B has something to say"); print("and a warning", file=sys.stderr, flush=True)
    with open(os.environ["FAKE_CALLS"], "a") as file:
        file.write(json.dumps([what, values], default=str) + "\\n")
    bad = os.environ.get("FAKE_WANDB", "").split("@")
    if len(bad) == 2 and bad[1] in (what, f"{what} {values.get('mode')}"):
        if bad[0] == "hang": time.sleep(600)
        if bad[0] == "exit": sys.exit(3)
        if bad[0] == "die": os._exit(9)
        if bad[0] == "unreachable": raise errors.Error("no route to https://user:hunter2@host")
        raise ConnectionResetError("Connection lost")

class Summary:
    def update(self, values): note("summary", values=values)

class Run:
    summary = Summary()
    def log(self, metrics, step): note("log", metrics=metrics, step=step)
    def finish(self, exit_code): note("finish", exit_code=exit_code)

def teardown(): note("teardown")

def init(**values):
    note("init", **values)
    return Run()
"""
IDS: dict[str, Any] = {"run_id": "lora-r8-abc", "name": "lora-r8", "group": "g1", "config": {"rank": 8}}


def settings(mode: str) -> TrackingConfig:
    return TrackingConfig(name=mode, mode=mode, project="tests")


class Told(list[str]):
    """The calls that W&B got, and the lines that the user did."""

    def __init__(self, calls: Path) -> None:
        super().__init__()
        self.path = calls

    @property
    def calls(self) -> list[Any]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture(autouse=True)
def _no_mirror_left() -> Iterator[None]:
    yield
    if Tracker.of_all:
        Tracker.of_all.kill()
    Tracker.of_all, Tracker.stopped_for_all = None, False


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    (tmp_path / "fake" / "wandb").mkdir(parents=True)
    (tmp_path / "fake" / "wandb" / "__init__.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return Told(tmp_path / "calls")


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait for what another process does, on a busy machine a little later."""
    end = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def do_run(told: Told, mode: str = "offline", **ids: Any) -> None:
    """A run of two steps."""
    with tracked(settings(mode), folder=Path("w"), say=told.append, **{**IDS, **ids}) as tracker:
        tracker.log(1, {"loss": 0.5})
        tracker.log(2, {"loss": 0.25})
        tracker.summarize({"test": 0.75})


def test_metrics_reach_wandb_under_the_id_and_group_of_the_run(told: Told) -> None:
    do_run(told)
    assert told.names == ["init", "log", "log", "summary", "finish"]
    init, log, _, summary, finish = (values for _, values in told.calls)
    assert (init["id"], init["group"], init["mode"], init["config"]) == ("lora-r8-abc", "g1", "offline", {"rank": 8})
    assert log == {"metrics": {"loss": 0.5}, "step": 1}
    assert (summary, finish) == ({"values": {"test": 0.75}}, {"exit_code": 0})
    assert told == []


def test_one_process_mirrors_all_runs(told: Told) -> None:
    do_run(told)
    first = Tracker.of_all
    do_run(told, run_id="another")
    assert Tracker.of_all is first
    assert told.names.count("init") == told.names.count("finish") == 2


def test_a_process_that_was_forked_has_a_mirror_of_its_own(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    do_run(told)
    first = Tracker.of_all
    assert first is not None
    monkeypatch.setattr(os, "getpid", lambda: first.owner + 1)
    do_run(told)
    assert Tracker.of_all is not first
    first.kill()


def test_a_failed_run_ends_as_failed(told: Told) -> None:
    with pytest.raises(ZeroDivisionError), tracked(settings("offline"), folder=Path("w"), say=told.append, **IDS):
        raise ZeroDivisionError
    assert told.calls[-1] == ["finish", {"exit_code": 1}]


@pytest.mark.parametrize("how", ["raise", "exit", "die"])
@pytest.mark.parametrize("at", ["init", "log", "summary", "finish"])
def test_whatever_wandb_does_the_run_goes_on_and_one_line_says_so(
    how: str, at: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WANDB", f"{how}@{at}")
    do_run(told)
    (line,) = told
    assert line.startswith("W&B: ")
    assert "no longer tracked, which changes no result" in line
    assert "\n" not in line


def test_what_ends_one_runs_tracking_does_not_end_the_next_ones(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WANDB", "raise@log")
    do_run(told)
    monkeypatch.delenv("FAKE_WANDB")
    do_run(told)
    assert len(told) == 1
    assert told.calls[-1] == ["finish", {"exit_code": 0}]


@pytest.mark.parametrize("bad", ["raise@init", "hang@finish", "hang@log", "hang@init"])
def test_what_each_run_would_meet_is_met_once(bad: str, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WANDB", bad)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.5)
    for _ in range(3):
        with tracked(settings("offline"), folder=Path("w"), say=told.append, **IDS) as tracker:
            tracker.log(1, {"loss": 0.5})
            wait_for(lambda: told.names)  # what the process takes to start is no part of FINISH_SECONDS
    assert len(told) == 1
    assert told.names.count("init") == 1


def test_a_mirror_that_no_longer_reads_holds_nobody_up(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WANDB", "hang@init")
    with tracked(settings("offline"), folder=Path("w"), say=told.append, **IDS) as tracker:
        for step in range(3000):
            tracker.log(step, {"a name of some length, to fill the pipe": 0.5})
    assert len(told) == 1
    assert "has stopped reading" in told[0]


def test_a_mirror_that_is_killed_while_a_run_trains_ends_its_tracking_alone(told: Told) -> None:
    with tracked(settings("offline"), folder=Path("w"), say=told.append, **IDS) as tracker:
        tracker.log(1, {"loss": 0.5})
        assert Tracker.of_all is not None
        os.kill(Tracker.of_all.process.pid, signal.SIGKILL)
        Tracker.of_all.process.wait()
        tracker.log(2, {"loss": 0.5})
    assert len(told) == 1
    do_run(told)
    assert len(told) == 1
    assert told.calls[-1] == ["finish", {"exit_code": 0}]


def test_no_process_for_the_mirror_is_no_reason_to_stop(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*args: Any, **kwargs: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", no_memory)
    do_run(told)
    (line,) = told
    assert "temporarily unavailable" in line


def test_without_a_route_all_runs_are_tracked_offline_and_it_is_tried_once(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WANDB", "unreachable@init online")
    for number in range(3):
        do_run(told, "online", run_id=f"run{number}")
    modes = [values["mode"] for name, values in told.calls if name == "init"]
    assert modes == ["online", "offline", "offline", "offline"]
    (line,) = told
    assert line.startswith("W&B can't be reached (no route to https://[secret]@host)")


def test_what_wandb_prints_is_not_in_the_terminal(told: Told, capfd: pytest.CaptureFixture[str]) -> None:
    do_run(told)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("asked", "variable", "mode"),
    [
        ("offline", "disabled", "none"),
        ("online", "disabled", "none"),
        ("online", "offline", "offline"),
        ("online", "dryrun", "offline"),
        ("offline", "online", "offline"),
        ("none", "online", "none"),
        ("online", "", "online"),
    ],
)
def test_the_environment_may_ask_for_less(
    asked: str, variable: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    assert tracking_mode(settings(asked)) == mode


@pytest.mark.parametrize(("mode", "variable"), [("none", ""), ("offline", "disabled")])
def test_no_tracking_starts_no_process_and_writes_nothing(
    mode: str, variable: str, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    with tracked(settings(mode), folder=tmp_path / "w", say=told.append, **IDS) as tracker:
        tracker.log(1, {"loss": 1.0})
    assert not (tmp_path / "w").exists()
    assert Tracker.of_all is None
    assert told.calls == told == []


@pytest.mark.parametrize("home", ["", "nowhere"])
def test_online_without_a_key_is_refused_before_the_sweep(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"needs a key.\nRun `wandb login`"):
        check_tracking(settings("online"))
    check_tracking(settings("offline"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    check_tracking(settings("online"))


@pytest.mark.slow
def test_wandb_itself_writes_an_offline_run_without_key_network_and_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    said: list[str] = []
    with tracked(settings("offline"), folder=tmp_path, say=said.append, **IDS) as tracker:
        tracker.log(1, {"loss": 0.25})
    (file,) = tmp_path.glob("wandb/offline-run-*/run-lora-r8-abc.wandb")
    wait_for(lambda: b"loss" in file.read_bytes())
    assert said == []


@pytest.mark.slow
def test_a_file_where_wandbs_folder_should_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (tmp_path / "wandb").touch()
    said: list[str] = []
    with tracked(settings("offline"), folder=tmp_path / "wandb", say=said.append, **IDS) as tracker:
        tracker.log(1, {"loss": 0.25})
    assert len(said) == 1
    assert "no longer tracked" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_wandbs_service_may_die_or_hang_while_a_run_trains(
    how: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 1)
    said: list[str] = []
    with tracked(settings("offline"), folder=tmp_path, say=said.append, **IDS) as tracker:
        assert Tracker.of_all is not None
        children = Path(f"/proc/{Tracker.of_all.process.pid}/task/{Tracker.of_all.process.pid}/children")
        wait_for(lambda: children.read_text() and list(tmp_path.rglob("*.wandb")))
        service = int(children.read_text().split()[0])
        os.kill(service, how)
        for step in range(20):
            tracker.log(step, {"loss": 0.5})
            time.sleep(0.02)
    assert len(said) == 1
    assert "no longer tracked" in said[0]
    if how == signal.SIGSTOP:
        os.kill(service, signal.SIGKILL)
