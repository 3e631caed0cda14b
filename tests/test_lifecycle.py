"""A run's states: what is recorded when it goes well and when it doesn't."""

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from src.analysis.terminal import print_runs
from src.config.schema import Config
from src.errors import Diverged, UserError
from src.interrupts import interruptible
from src.results.schema import Record
from src.results.store import ADAPTER, CLAIM, CONFIG, FIT, PREDICTIONS, RESULT, TRACEBACK, is_done, read_record
from src.running import execute as execution
from src.running import fitting, sweep, tracking
from src.running.fitting import Fit
from src.running.lifecycle import run
from src.running.sweep import UNRECORDED, Plan

Make = Callable[..., Config]


def attempt(config: Config) -> tuple[str, Path]:
    plan = Plan.of([config])
    return run(config, plan), Path(plan.folders[0])


def record_in(folder: Path) -> Record:
    record = read_record(folder)
    assert record is not None
    return record


def raising(error: BaseException) -> Callable[..., Any]:
    """What to put in a function's place, for it to fail."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


def test_a_finished_run_leaves_its_four_files_and_is_not_repeated(tiny: Make, monkeypatch: Any) -> None:
    state, folder = attempt(tiny("adapter=lora", "rank=2"))
    assert state == "done"
    assert {path.name for path in folder.iterdir()} == {ADAPTER, CONFIG, PREDICTIONS, RESULT}
    record = record_in(folder)
    assert record["run_id"] == folder.name
    assert "flags" not in record  # four steps give no answer that is right, and no two that are the same
    monkeypatch.setattr(execution, "execute", None)
    assert attempt(tiny("adapter=lora", "rank=2"))[0] == "done"


def test_a_run_in_epochs_is_recorded_with_the_steps_that_they_came_to(tiny: Make) -> None:
    state, folder = attempt(tiny("adapter=lora", "rank=2", "trainer.epochs=0.1", "trainer.max_steps=null"))
    record = record_in(folder)
    assert state == "done"
    steps = 3  # a tenth of 29 batches: 900 rows, 32 a batch
    assert record["identity"]["trainer"]["max_steps"] == record["config"]["trainer"]["max_steps"] == steps
    assert record["history"][-1]["step"] == record["checkpoint"]["step"] == steps
    assert attempt(tiny("adapter=lora", "rank=2", f"trainer.max_steps={steps}"))[1] == folder


def test_the_predictions_give_the_recorded_score(tiny: Make) -> None:
    import pandas as pd

    _, folder = attempt(tiny("adapter=full", "lr=3e-3", "trainer.max_steps=60", "trainer.eval_limit=null"))
    items = pd.read_parquet(folder / PREDICTIONS)
    record = record_in(folder)
    for split, metric in record["metrics"].items():
        of_split = items[items["split"] == split]
        assert (of_split["prediction"] == of_split["reference"]).mean() == pytest.approx(metric["value"], abs=1e-12)
        assert len(of_split) == metric["n"] == 100


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RuntimeError("boom"), "failed"),
        (torch.cuda.OutOfMemoryError("no room"), "out_of_memory"),
        (Diverged("the loss is nan"), "diverged"),
    ],
)
def test_what_goes_wrong_is_recorded_with_its_reason(tiny: Make, monkeypatch: Any, error: Any, state: str) -> None:
    monkeypatch.setattr(fitting, "train", raising(error))
    outcome, folder = attempt(tiny("adapter=lora", "rank=2"))
    record = record_in(folder)
    assert outcome == record["state"] == state
    assert record["error"] == {"class": type(error).__name__, "message": str(error)}
    assert str(error) in (folder / TRACEBACK).read_text()
    assert not (folder / CLAIM).exists()


def test_a_failed_run_is_tried_again_and_its_traces_go(tiny: Make, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train", None)
        state, folder = attempt(tiny("adapter=lora", "rank=2"))
        assert state == "failed"
    assert attempt(tiny("adapter=lora", "rank=2"))[0] == "done"
    assert not (folder / TRACEBACK).exists()


def test_an_interrupted_run_says_so_and_stops_the_sweep(tiny: Make, monkeypatch: Any) -> None:
    monkeypatch.setattr(fitting, "train", raising(KeyboardInterrupt()))
    config = tiny("adapter=lora", "rank=2")
    plan = Plan.of([config])
    with pytest.raises(KeyboardInterrupt):
        run(config, plan)
    assert record_in(Path(plan.folders[0]))["state"] == "interrupted"


def test_a_signal_that_a_library_makes_another_exception_of_stops_the_sweep(tiny: Make, monkeypatch: Any) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr(fitting, "train", fail)
    config = tiny("adapter=lora", "rank=2")
    plan = Plan.of([config])
    with pytest.raises(SystemExit) as ended, interruptible():
        run(config, plan)
    assert ended.value.code == 143
    assert record_in(Path(plan.folders[0]))["state"] == "interrupted"


def test_a_user_error_in_a_run_leaves_no_traceback(tiny: Make) -> None:
    roles = '{module: "model.layers.*.self_attn.query", out_features: 64, in_features: 64}'
    state, folder = attempt(tiny("adapter=lora", "rank=2", "target=qv", f"model.roles.query={roles}"))
    assert state == "failed"
    assert not (folder / TRACEBACK).exists()
    record = record_in(folder)
    assert record["error"] is not None
    assert "model.layers.0.self_attn.q_proj" in record["error"]["message"]


def test_a_run_held_by_another_worker_is_left_alone(tiny: Make, tmp_path: Path) -> None:
    config = tiny("adapter=lora", "rank=2")
    folder = Path(Plan.of([config]).folders[0])
    folder.mkdir(parents=True)
    (folder / CLAIM).write_text(json.dumps({"host": "another-machine", "pid": 1, "started": 0}))
    assert attempt(config)[0] == "running"
    assert [path.name for path in folder.iterdir()] == [CLAIM]


def test_the_record_says_where_it_comes_from(tiny: Make) -> None:
    _, folder = attempt(tiny("adapter=lora", "rank=2"))
    record = record_in(folder)
    provenance = record["provenance"]
    assert {"code", "git_revision", "git_dirty", "packages", "device", "command", "python"} <= provenance.keys()
    assert provenance["packages"]["torch"] == torch.__version__
    assert record["identity"]["task"]["fingerprint"]
    assert len(set(record["seeds"].values())) == len(record["seeds"])


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (SystemExit(3), "failed", "3"),
        (MemoryError(), "out_of_memory", "MemoryError"),
        (EOFError("odd"), "failed", "odd"),
    ],
)
def test_a_library_that_ends_the_program_ends_its_run_alone(
    tiny: Make, monkeypatch: Any, error: Any, state: str, message: str
) -> None:
    monkeypatch.setattr(fitting, "train", raising(error))
    outcome, folder = attempt(tiny("adapter=lora", "rank=2"))
    record = record_in(folder)
    assert outcome == record["state"] == state
    assert record["error"] == {"class": type(error).__name__, "message": message}


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "at",
    ["claim", CONFIG, *(pytest.param(file, marks=pytest.mark.slow) for file in (ADAPTER, PREDICTIONS, FIT, RESULT))],
)
def test_on_a_full_disk_the_sweep_goes_on_says_so_and_loses_nothing(
    tiny: Make, monkeypatch: Any, capsys: Any, at: str
) -> None:
    config = tiny("adapter=lora", "rank=2", "trainer.max_steps=2")
    plan = Plan.of([config])
    folder = Path(plan.folders[0])
    with monkeypatch.context() as patch:
        _fill_disk(patch, at)
        assert run(config, plan) == "failed"
    print_runs([folder], UNRECORDED)
    assert capsys.readouterr().out.count("No space left on device") == 2  # at once, and in the table at the end
    assert not (folder / CLAIM).exists()
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    if at not in ("claim", CONFIG):  # which stop it before it trains
        assert run(config, plan) == "done"
        assert is_done(folder)


def _fill_disk(patch: Any, at: str) -> None:
    """Let whatever writes the file of that name find no space."""
    if at == "claim":
        patch.setattr("json.dump", raising(FULL))
        return
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == at:
            raise FULL
        return replace(self, target)

    patch.setattr(Path, "replace", full)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"training": 3}', '{"training": {"old": 1}}'])
def test_a_damaged_fit_is_trained_again(content: str, tmp_path: Path) -> None:
    (tmp_path / ADAPTER).touch()
    (tmp_path / FIT).write_text(content)
    assert Fit.read(tmp_path, {}) is None


def test_what_a_killed_writer_left_is_removed_by_the_next_attempt(tiny: Make) -> None:
    config = tiny("adapter=lora", "rank=2")
    folder = Path(Plan.of([config]).folders[0])
    folder.mkdir(parents=True)
    for name in (f".{ADAPTER}.1234-0a1b2c3d", f".{CONFIG}.1-ffffffff", ".mine.1-ffffffff.txt", "notes.1-ffffffff"):
        (folder / name).touch()
    assert attempt(config)[0] == "done"
    left = {path.name for path in folder.iterdir()} - {ADAPTER, CONFIG, PREDICTIONS, RESULT}
    assert left == {".mine.1-ffffffff.txt", "notes.1-ffffffff"}


def test_what_is_gone_when_its_turn_comes_is_a_line(tiny: Make, monkeypatch: Any, capsys: Any) -> None:
    config = tiny("adapter=lora", "rank=2")
    plan = Plan.of([config])
    gone = UserError("the data is gone.\nBring it back.")
    monkeypatch.setattr("src.running.lifecycle.inputs_of", raising(gone))
    assert run(config, plan) == "failed"
    assert "failed: lora on reverse_words: the data is gone." in capsys.readouterr().out


def test_an_interrupt_while_wandb_is_waited_for_leaves_a_done_run_done(tiny: Make, monkeypatch: Any) -> None:
    @contextmanager
    def slow(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield tracking.Tracker()
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "tracked", slow)
    config = tiny("adapter=lora", "rank=2", "trainer.max_steps=2")
    plan = Plan.of([config])
    with pytest.raises(KeyboardInterrupt):
        run(config, plan)
    assert record_in(Path(plan.folders[0]))["state"] == "done"
    assert run(config, plan) == "done"


def test_a_sweep_that_ends_early_ends_with_its_table(tiny: Make, capsys: Any) -> None:
    plan = Plan.of([tiny("adapter=lora", f"rank={rank}") for rank in (2, 4)])
    with pytest.raises(ZeroDivisionError), sweep.closing_table(plan):
        raise ZeroDivisionError
    assert capsys.readouterr().out.count("not run: lora-r") == 2


def test_a_damaged_record_does_not_take_the_table_or_the_time_left_away(tiny: Make, capsys: Any) -> None:
    configs = [tiny("adapter=lora", "rank=2", f"seed={seed}", "trainer.max_steps=2") for seed in (0, 1)]
    plan = Plan.of(configs)
    Path(plan.folders[0]).mkdir(parents=True)
    (Path(plan.folders[0]) / RESULT).write_text('{"state": "done"')
    assert run(configs[1], plan) == "done"
    print_runs([Path(path) for path in plan.folders])
    out = capsys.readouterr().out
    assert "unreadable: lora-r2" in out
    assert "lora    " in out
