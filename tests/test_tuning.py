"""Learning rates are chosen on validation, with as many sound trials for every cell, and it is stored how."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.analysis.collect import collect
from src.analysis.comparison import compare
from src.config.schema import Config
from src.config.sweeps import run_configs
from src.errors import UserError
from src.results.schema import Record
from src.results.store import read_all
from src.running.search import Attempt, Curve, Trial
from src.running.tuning import Cell, at_rate, cells, rate, validation_of
from src.tune import tune
from tests.conftest import ROOT, TINY, composed, run_program


def configs(*overrides: str) -> list[Config]:
    return run_configs([*TINY, *overrides])


def test_a_rate_of_a_method_of_several_ranks_is_chosen_on_their_mean() -> None:
    record: Any = {"state": "done", "metrics": {"validation": {"value": 0.9, "higher_is_better": True}}}
    assert validation_of(record) == 0.9
    nested = record | {"smaller_ranks": [{"rank": 1, "validation": 0.3}, {"rank": 2, "validation": 0.6}]}
    assert validation_of(nested) == pytest.approx(0.6)


def test_dylora_is_scaled_by_16_over_the_rank_at_any_largest_rank() -> None:
    assert {composed("adapter=dylora", f"rank={rank}").alpha for rank in (1, 8, 64)} == {16}


def test_only_what_is_doubtful_is_stored_of_a_trial_beside_its_score() -> None:
    assert Trial(0.1, "done", 0.5).stored() == {"value": 0.1, "state": "done", "validation": 0.5}
    assert Trial(0.1, "done", 0.5, ("at chance",), "at chance").stored()["flags"] == ["at chance"]
    assert Trial(0.1, "done", 0.5, seed=101).stored()["seed"] == 101


def test_a_sweep_of_broken_trials_is_refused_with_their_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["adapter=full", "lr=1e37", "trainer.max_steps=6", "tuning.trials=3", "tuning.extensions=0",
                 "forgetting=none"]  # fmt: skip
    with pytest.raises(UserError) as error:
        tune(configs(*overrides, f"results_dir={tmp_path}", f"cache_dir={tmp_path}"))
    assert str(error.value) == (
        "No rate could be chosen, as every trial is broken or doubtful:\n"
        "  full: lr=3.2e+35,1e+36,3.2e+36,1e+37,3.2e+37 diverged: the training loss isn't finite at step 3\n"
        "Give another middle of the grid with lr=..., or train for longer."
    )
    assert "1e+37 diverged" in capsys.readouterr().out


def fake(monkeypatch: pytest.MonkeyPatch, outcome: Callable[[Config], Trial]) -> list[str]:
    """Let trials give what `outcome` says without being run; returns what is asked for, round by round."""
    asked: list[str] = []

    def curve(cell: Cell, runs: dict[Attempt, Config]) -> Curve:
        tried: dict[int, tuple[Trial, ...]] = {}
        for (position, _), config in sorted(runs.items()):
            tried[position] = (*tried.get(position, ()), outcome(config))
        return Curve(tried, cell.budget)

    monkeypatch.setattr("src.running.tuning.curve_of", curve)
    monkeypatch.setattr("src.tune._run_all", lambda what, runs, *args: asked.append(f"{len(runs)} {what}"))
    return asked


def test_a_cell_without_a_rate_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(config: Config) -> Trial:
        flags = ("constant predictions",) if config.adapter.name == "full" else ()
        return Trial(rate(config), "done", -abs(math.log(rate(config) / 0.001)), flags, ", ".join(flags))

    asked = fake(monkeypatch, outcome)
    overrides = ["adapter=full,lora", "rank=2", "lr=0.001", "seed=0,1", "tuning.trials=3", "tuning.extensions=0"]
    assert tune(configs(*overrides, f"results_dir={tmp_path}", f"cache_dir={tmp_path}")) is False
    # Three rates each; two more each; the second seed of lora's two best.
    assert asked == ["6 trials", "9 trials", "12 trials", "2 runs"]
    output = capsys.readouterr().out
    assert "not to be chosen: full: lr=0.0001,0.00032,0.001,0.0032,0.01 done: constant predictions" in output
    assert "no rate could be chosen for full: no run" in output


def test_a_cell_says_which_of_its_trials_broke_within_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(config: Config) -> Trial:
        if rate(config) > 0.003:
            return Trial(rate(config), "diverged", reason="the loss")
        return Trial(rate(config), "done", 0.4 - abs(math.log10(rate(config) / 0.001)) / 10)

    fake(monkeypatch, outcome)
    tune(configs("adapter=full", "lr=0.001", "tuning.trials=3", f"results_dir={tmp_path}", f"cache_dir={tmp_path}"))
    output = capsys.readouterr().out
    assert "0.001 0.4000/0.4000 <-" in output
    assert "warning: not to be chosen: full: lr=0.0032 diverged: the loss" in output
    assert "at the edge" not in output
    shown = [line for line in output.splitlines() if line.startswith("  ")]
    assert len(shown) == 2
    assert all(len(line) <= 80 for line in shown)


def test_what_is_to_mind_of_a_chosen_rate_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["adapter=full", "lr=0.001", "tuning.trials=3", "tuning.extensions=1", f"results_dir={tmp_path}"]
    fake(monkeypatch, lambda config: Trial(rate(config), "done", rate(config)))
    tune(configs(*overrides))
    assert "at the edge of its grid for full\n  more trials: tuning.extensions=3" in capsys.readouterr().out
    fake(monkeypatch, lambda config: Trial(rate(config), "done" if rate(config) == 0.001 else "diverged", 0.5))
    tune(configs(*overrides))
    output = capsys.readouterr().out
    assert "every sound rate is beside one that broke for full" in output
    assert "fewer sound rates than asked for: full (1 of 5)" in output


def test_cells_hold_the_runs_that_differ_in_their_seeds_alone() -> None:
    groups = cells(configs("adapter=lora,full", "rank=2,4", "seed=0,1,2"))
    assert [cell.name for cell in groups] == ["lora-r2-all_linear", "lora-r4-all_linear", "full"]
    assert [[config.seed for config in cell.configs] for cell in groups] == [[0, 1, 2]] * 3


def test_a_trial_has_its_own_seed_and_leaves_the_test_split_alone() -> None:
    cell = Cell([composed(*TINY, "adapter=lora", "seed=4")])
    trial = cell.trial(0.5)
    assert (trial.seed, trial.lr, trial.trainer.score_test) == (100, 0.5, False)
    assert (cell.seeds, cell.trial(0.5, 101).seed) == ([100, 101], 101)
    assert [(config.seed, config.lr, config.trainer.score_test) for config in cell.chosen(0.5)] == [(4, 0.5, True)]


def test_a_method_without_a_rate_is_tuned_at_its_heads() -> None:
    config = composed("adapter=head_only", "trainer.head_lr=0.25")
    assert rate(config) == 0.25
    assert at_rate(config, 0.5).trainer.head_lr == 0.5
    assert config.trainer.head_lr == 0.25


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("lr=0.1,0.2",), "lr=0.1,0.2 sweeps what src.tune chooses"),
        (("seed=0,100",), "seed=100 is a seed of the trials(.|\n)*other than 100 and 101"),
        (("seed=0,101",), "seed=101 is a seed of the trials"),
        (("tuning.seed=9223372036854775807",), "tuning.seed=9223372036854775807 is too large"),
        (("lr=1e200",), r"lr=1e\+200 leaves no room for other rates"),
        (("tuning.trials=4",), "tuning.trials=4 is even"),
        (("tuning.trials=1",), "tuning.trials=1 is too small"),
    ],
)
def test_a_sweep_that_cant_be_tuned_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cells(configs(*overrides))


@pytest.mark.slow
def test_the_command_tunes_every_cell_alike_and_stores_the_trials_with_the_runs(tmp_path: Path) -> None:
    overrides = [*TINY, "adapter=lora,lora_sb", "rank=2", "seed=0,1", "tuning.trials=3", "trainer.max_steps=6",
                 f"results_dir={tmp_path}", f"cache_dir={tmp_path}"]  # fmt: skip
    first = run_program("src.tune", *overrides)
    assert first.returncode == 0, first.stderr
    assert "6 trials: 0 done already, 6 to run" in first.stdout
    records = read_all(tmp_path)
    runs = [record for record in records if record["config"]["trainer"]["score_test"]]
    trials = [record for record in records if not record["config"]["trainer"]["score_test"]]
    assert len(runs) == 4
    assert {record["seeds"]["seed"] for record in trials} == {100, 101}
    assert all("test" not in record["metrics"] for record in trials)
    for record in runs:
        check_tuned(record, trials)
    again = run_program("src.tune", *overrides)
    assert f"{len(trials)} trials: {len(trials)} done already, 0 to run" in again.stdout
    assert "4 runs: 4 done already, 0 to run" in again.stdout
    assert read_all(tmp_path) == records
    assert "2 seeds" in compare(collect(tmp_path)).cells["tuning"][0]


def check_tuned(record: Record, trials: list[Record]) -> None:
    """A run has the rate that its own trials, read from their records, show to be the best on validation."""
    matches = [trial for trial in trials if trial["config"]["adapter"] == record["config"]["adapter"]]
    scores = {
        (trial["config"]["lr"], trial["config"]["seed"]): trial["metrics"]["validation"]["value"] for trial in matches
    }
    stored = record["tuning"]
    assert {(trial["value"], trial["seed"]): trial["validation"] for trial in stored["trials"]} == scores
    assert record["config"]["lr"] == stored["chosen"]
    twice = {value for value, seed in scores if seed == 101}
    means = {value: (scores[value, 100] + scores[value, 101]) / 2 for value in twice}
    assert len(means) == 2
    assert means[stored["chosen"]] == max(means.values())
    assert (stored["wanted"], stored["at_edge"]) == (5, False)


@pytest.mark.slow
def test_two_copies_share_the_trials_and_a_killed_one_is_gone_on_with(tmp_path: Path) -> None:
    words = [*TINY, "adapter=lora", "rank=2", "seed=0", "tuning.trials=3", "trainer.max_steps=6",
             f"results_dir={tmp_path}", f"cache_dir={tmp_path}"]  # fmt: skip
    command = [sys.executable, "-m", "src.tune", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        before = ""
        while "[1/" not in before:
            before += killed.stdout.readline()
        killed.kill()
    copies = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [before, *(copy.communicate(timeout=600)[0] for copy in copies)]
    assert [copy.returncode for copy in copies] == [0, 0], outputs
    records = read_all(tmp_path)
    folders = [record["run_id"] for record in records]
    assert len(folders) == len(set(folders)) == 5 + 2 + 1
    # A run's line with its loss is in the output of the one that trained it.
    trained = [line.split("] ")[1] for text in outputs for line in text.splitlines() if "  loss " in line]
    names = [line.partition("  loss ")[0].strip() for line in trained]
    assert len(names) == len(set(names)) >= len(folders) - 1
    assert all(f"{len(folders) - 1} trials" in output for output in outputs[1:])
