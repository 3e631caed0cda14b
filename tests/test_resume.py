"""A run that is cut off goes on from its checkpoint, and ends as it would have: the same bits, the same history."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from src.config.schema import Config
from src.errors import Diverged
from src.files import read_json
from src.interrupts import SIGNALS
from src.results.digests import prediction_digests, tensor_digests
from src.results.store import ADAPTER, CHECKPOINT, PREDICTIONS, RESULT, read_record
from src.running import fitting
from src.running.checkpoints import read_checkpoint, write_checkpoint
from src.running.inputs import folder_of
from src.running.lifecycle import run
from src.running.sweep import Plan
from src.training.snapshots import Snapshot
from tests.conftest import HANG_SECONDS, ROOT, TINY
from tests.test_sweep_equals_alone import ADAPTERS

Make = Callable[..., Config]
ALWAYS = "trainer.checkpoint_minutes=1e-9"
SHORT = ["trainer.max_steps=7", "trainer.eval_every=3", "trainer.eval_limit=8", "trainer.batch_size=4", "rank=2"]
QUICK = ("lora", "lora_sb")  # of the fast tests
OPTIONS = {
    "lora": ["adapter.options.dropout=0.3", "adapter.options.lr_ratio=4"],
    "lora_sb": ["trainer.checkpoint=best_validation"],
    "dylora": ["trainer.schedule=cosine", "trainer.weight_decay=0.1"],
    "full": ["trainer.checkpoint=best_validation", "trainer.micro_batch_size=2"],
    "bitfit": ["+model.config.attention_bias=true"],
    "head_only": ["model.head=[lm_head]"],
    "peft/custom": ["adapter.config._target_=peft.LoHaConfig"],
}


class Killed(BaseException):
    """What a process that is killed raises: nothing that anything could make something of."""


def cut_off(config: Config, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt at the run that is gone after so many steps, with its checkpoint."""

    def kill(folder: Path, snapshot: Snapshot, *rest: Any) -> None:
        write_checkpoint(folder, snapshot, *rest)
        if snapshot.step == steps:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(fitting, "write_checkpoint", kill)
        patched.setattr("src.running.lifecycle._keep", lambda *args: pytest.fail("a killed run writes nothing"))
        patched.setattr("src.running.lifecycle._attempt", without_record)
        with pytest.raises(Killed):
            run(config, Plan.of([config]))


def without_record(config: Config, folder: Path, plan: Plan, line: Any) -> Any:
    from src.running.lifecycle import _execute_tracked

    return _execute_tracked(config, folder, plan, line)


def outcome(config: Config) -> dict[str, Any]:
    """Of a finished run all that isn't time or a path."""
    return of_folder(folder_of(config))


def of_folder(folder: Path) -> dict[str, Any]:
    """The same of a run's folder."""
    record: Any = read_record(folder)
    assert record["state"] == "done"
    return {
        "tensors": tensor_digests(folder / ADAPTER),
        "predictions": prediction_digests(folder / PREDICTIONS),
        **{key: record[key] for key in ("metrics", "history", "parameters", "memory", "checks") if key in record},
    }


@pytest.mark.parametrize(
    "adapter", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in ADAPTERS]
)
def test_a_run_that_is_cut_off_ends_as_it_would_have(
    adapter: str, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [f"adapter={adapter}", *SHORT, *OPTIONS.get(adapter, [])]
    whole = replace(tiny(*asked, "trainer.checkpoint_minutes=0"), results_dir=str(tmp_path / "whole"))
    assert run(whole, Plan.of([whole])) == "done"
    config = tiny(*asked, ALWAYS)
    for steps in (2, 3, 6):  # between logs; where validation was; before the last
        cut_off(config, steps, monkeypatch)
    capsys.readouterr()
    assert run(config, Plan.of([config])) == "done"
    assert "goes on after step 6" in capsys.readouterr().out
    assert outcome(config) == outcome(whole)
    assert not list(tmp_path.rglob(CHECKPOINT))


def damaged(kind: str, content: bytes) -> bytes:
    """A file's content after what may befall it."""
    middle = len(content) // 2
    return {
        "cut": content[:middle],
        "empty": b"",
        "zeroed": content[:middle] + bytes(len(content) - middle),
        "a bit of a tensor": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        "a bit of the values": content.replace(b'step\\": 2', b'step\\": 3', 1),
        "no file of that kind": b"{}" * 100,
    }[kind]


@pytest.mark.parametrize(
    "kind", ["cut", "empty", "zeroed", "a bit of a tensor", "a bit of the values", "no file of that kind"]
)
def test_a_damaged_checkpoint_is_not_gone_on_with(kind: str, tmp_path: Path) -> None:
    said: list[str] = []
    snapshot = Snapshot(2, {"trained/a": torch.ones(3), "random/0": torch.arange(5, dtype=torch.uint8)}, {"x": 0.1})
    write_checkpoint(tmp_path, snapshot, {"torch": "1"}, said.append)
    again = read_checkpoint(tmp_path, {"torch": "1"}, said.append)
    assert again is not None
    assert (again.step, again.values, again.part("trained")["a"].tolist()) == (2, {"x": 0.1}, [1.0] * 3)
    path = tmp_path / CHECKPOINT
    before = path.read_bytes()
    path.write_bytes(damaged(kind, before))
    assert path.read_bytes() != before
    assert read_checkpoint(tmp_path, {"torch": "1"}, said.append) is None
    assert said[0].endswith("goes on after step 2")
    assert "its checkpoint is damaged (" in said[1]
    assert said[1].endswith("), so it starts over")
    assert len(said) == 2


def test_a_checkpoint_of_other_versions_is_not_gone_on_with(tmp_path: Path) -> None:
    said: list[str] = []
    write_checkpoint(tmp_path, Snapshot(2, {"a/b": torch.ones(1)}, {}), {"torch": "1", "numpy": "2"}, said.append)
    assert read_checkpoint(tmp_path, {"torch": "3", "numpy": "2"}, said.append) is None
    assert said == [f"{tmp_path.name}: its checkpoint is of another torch, so it starts over"]
    assert read_checkpoint(tmp_path / "nowhere", {}, said.append) is None
    assert len(said) == 1


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_run(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("src.running.checkpoints.save_file", full)
    config = tiny("adapter=lora", *SHORT, ALWAYS, "forgetting=none")
    assert run(config, Plan.of([config])) == "done"
    assert capsys.readouterr().out.count("no checkpoint could be written (No space left on device)") == 1


def test_what_diverged_leaves_no_checkpoint(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*args: Any) -> None:
        raise Diverged("the training loss isn't finite at step 4")

    config = tiny("adapter=lora", *SHORT, ALWAYS)
    cut_off(config, 3, monkeypatch)
    assert list(tmp_path.rglob(CHECKPOINT))
    monkeypatch.setattr("src.training.finite.FirstBroken.check", diverge)
    assert run(config, Plan.of([config])) == "diverged"
    assert not list(tmp_path.rglob(CHECKPOINT))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_process_that_is_ended_is_gone_on_with_by_the_same_command(number: signal.Signals, tmp_path: Path) -> None:
    long = ["trainer.max_steps=400", "trainer.eval_every=1000", "trainer.eval_limit=8", "forgetting=none"]
    # Only a process that is killed needs one that was kept on the way.
    every = f"trainer.checkpoint_minutes={1e-3 if number == signal.SIGKILL else 60}"
    command = [sys.executable, "-m", "src.run", "adapter=lora", *TINY, *long, every, f"cache_dir={tmp_path}"]
    cut = [*command, f"results_dir={tmp_path / 'cut'}"]
    assert ended_in_training(cut, number) == (-number if number == signal.SIGKILL else 128 + number)
    (checkpoint,) = tmp_path.rglob(CHECKPOINT)
    assert [read_json(path)["state"] for path in tmp_path.rglob(RESULT)] == ["interrupted"] * (number != signal.SIGKILL)
    done = subprocess.run(cut, cwd=ROOT, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert (done.returncode, "goes on after step" in done.stdout) == (0, True), done.stdout + done.stderr
    assert not checkpoint.exists()
    subprocess.run([*command, f"results_dir={tmp_path / 'whole'}"], cwd=ROOT, check=True, capture_output=True)
    ours, whole = ([path.parent for path in (tmp_path / name).rglob(RESULT)] for name in ("cut", "whole"))
    assert [of_folder(folder) for folder in ours] == [of_folder(folder) for folder in whole]


def ended_in_training(command: list[str], number: int) -> int:
    """Send a signal to a command in a terminal once it shows a step; gives its status."""
    ours, theirs = os.openpty()
    environment = os.environ | {"TERM": "xterm"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=heed
    )
    os.close(theirs)
    read, is_sent = b"", False
    with suppress(OSError):  # the other end is closed
        while part := os.read(ours, 65536):
            read += part
            if b"step " in read and not is_sent:
                process.send_signal(number)
                is_sent = True
    os.close(ours)
    return process.wait(timeout=HANG_SECONDS)


def heed() -> None:
    """Take signals as a terminal's programs do: one that runs behind, or under `nohup`, ignores some."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
