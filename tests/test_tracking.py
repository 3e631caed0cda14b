"""The W&B mirror: the right mode, a deterministic id, a failed run ends as failed."""

import time
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import TrackingConfig
from src.errors import UserError
from src.running.tracking import tracked


def settings(mode: str) -> TrackingConfig:
    return TrackingConfig(name=mode, mode=mode, project="tests")


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[Any] = []
        self.summary: dict[str, Any] = {}
        self.exit_codes: list[int] = []

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((step, metrics))

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeRun, dict[str, Any]]:
    import wandb

    run, init_arguments = FakeRun(), {}

    def init(**arguments: Any) -> FakeRun:
        init_arguments.update(arguments)
        return run

    monkeypatch.setattr(wandb, "init", init)
    return run, init_arguments


IDS: dict[str, Any] = {"run_id": "lora-r8-abc", "name": "lora-r8", "group": "g1", "config": {"rank": 8}}


def test_metrics_reach_wandb_under_the_id_and_group_of_the_run(fake: Any, tmp_path: Path) -> None:
    run, init_arguments = fake
    with tracked(settings("offline"), folder=tmp_path / "w", **IDS) as tracker:
        tracker.log(3, {"loss": 0.5})
        tracker.summarize({"test": 0.75})
    assert (init_arguments["id"], init_arguments["group"], init_arguments["mode"]) == ("lora-r8-abc", "g1", "offline")
    assert run.logged == [(3, {"loss": 0.5})]
    assert run.summary == {"test": 0.75}
    assert run.exit_codes == [0]


def test_a_failed_run_ends_as_failed(fake: Any, tmp_path: Path) -> None:
    run, _ = fake
    with pytest.raises(ZeroDivisionError), tracked(settings("offline"), folder=tmp_path, **IDS):
        raise ZeroDivisionError
    assert run.exit_codes == [1]


def test_no_tracking_imports_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with tracked(settings("none"), folder=tmp_path / "w", **IDS) as tracker:
        tracker.log(1, {"loss": 1.0})
    assert not (tmp_path / "w").exists()


def test_online_without_a_key_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with (
        pytest.raises(UserError, match=r"needs a key.\nRun `wandb login`"),
        tracked(settings("online"), folder=tmp_path, **IDS),
    ):
        pass


def test_a_run_goes_on_offline_where_wandb_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    modes = []

    def init(**arguments: Any) -> FakeRun:
        modes.append(arguments["mode"])
        if arguments["mode"] == "online":
            raise wandb.errors.CommError("no route")
        return FakeRun()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "teardown", lambda: modes.append("teardown"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with tracked(settings("online"), folder=tmp_path, **IDS) as tracker:
        tracker.log(1, {"loss": 1.0})
    assert modes == ["online", "teardown", "offline"]


def test_an_offline_run_needs_no_key_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with tracked(settings("offline"), folder=tmp_path, **IDS) as tracker:
        tracker.log(1, {"loss": 0.25})
        assert tracker.run.id == "lora-r8-abc"
    (file,) = tmp_path.glob("wandb/offline-run-*/run-lora-r8-abc.wandb")
    for _ in range(600):  # W&B's process writes it, on a busy machine a little later
        if b"loss" in file.read_bytes():
            break
        time.sleep(0.1)
    assert b"loss" in file.read_bytes()
