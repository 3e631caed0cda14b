"""Learning rates are chosen on validation, with the same number of trials for every cell, and it is stored how."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import Config
from src.config.sweeps import run_configs
from src.errors import UserError
from src.results.schema import Record
from src.results.store import read_all
from src.running.tuning import Cell, Trial, at_edge, at_rate, best, cells, further, grid, rate, validation_of
from src.tune import tune
from tests.conftest import TINY, composed, run_program


def done(*pairs: tuple[float, float | None]) -> list[Trial]:
    return [Trial(value, "diverged" if score is None else "done", score) for value, score in pairs]


def configs(*overrides: str) -> list[Config]:
    return run_configs([*TINY, *overrides])


def test_a_rate_of_a_method_of_several_ranks_is_chosen_on_their_mean() -> None:
    record: Any = {"state": "done", "metrics": {"validation": {"value": 0.9, "higher_is_better": True}}}
    assert validation_of(record) == 0.9
    nested = record | {"smaller_ranks": [{"rank": 1, "validation": 0.3}, {"rank": 2, "validation": 0.6}]}
    assert validation_of(nested) == pytest.approx(0.6)


def test_dylora_is_scaled_by_16_over_the_rank_at_any_largest_rank() -> None:
    assert {composed("adapter=dylora", f"rank={rank}").alpha for rank in (1, 8, 64)} == {16}


def test_a_grid_is_half_decades_around_the_prior_itself() -> None:
    values = grid(2e-5, 5)
    assert values[2] == 2e-5
    steps = [math.log10(after / before) for before, after in pairwise(values)]
    assert steps == pytest.approx([0.5] * 4, abs=0.01)


def test_the_best_trial_is_the_highest_or_the_lowest_by_the_metrics_direction() -> None:
    trials = done((1.0, 0.3), (3.0, 0.7), (10.0, None))
    assert best(trials, 3.0, higher_is_better=True) == trials[1]
    assert best(trials, 3.0, higher_is_better=False) == trials[0]
    assert best(done((1.0, None)), 1.0, higher_is_better=True) is None


def test_of_equal_trials_the_nearest_to_the_prior_is_chosen() -> None:
    assert best(done((1.0, 0.5), (3.0, 0.5), (10.0, 0.5)), 3.0, higher_is_better=True) == Trial(3.0, "done", 0.5)


@pytest.mark.parametrize(("best_rate", "extensions", "expected"), [
    (0.01, 1, 0.032), (0.001, 1, 0.00032), (0.0032, 1, None), (0.01, 0, None),
])  # fmt: skip
def test_a_grid_is_extended_beyond_its_edge_alone(best_rate: float, extensions: int, expected: float | None) -> None:
    cell = Cell([composed(*TINY, "tuning.trials=3", f"tuning.extensions={extensions}")])
    trials = done((0.001, 0.1), (0.0032, 0.1), (0.01, 0.1))
    assert further(cell, trials, Trial(best_rate, "done", 0.2)) == expected


def test_a_rate_is_never_chosen_from_a_doubtful_trial() -> None:
    constant = Trial(3.0, "done", 0.9, ("constant predictions",))
    assert best([Trial(1.0, "done", 0.4), constant], 1.0, higher_is_better=True) == Trial(1.0, "done", 0.4)
    assert best([Trial(1.0, "done", 0.4), constant], 1.0, higher_is_better=False) == Trial(1.0, "done", 0.4)
    assert best([constant, Trial(1.0, "diverged"), Trial(2.0, "failed")], 1.0, higher_is_better=True) is None


SOUND, BROKE, FAILED, FLAT = "done", "diverged", "failed", "flagged"


@pytest.mark.parametrize(
    ("states", "leader", "edge", "further_rate"),
    [
        ((SOUND, SOUND, SOUND), 1, 0, None),
        ((SOUND, SOUND, SOUND), 2, 1, 0.032),
        ((SOUND, SOUND, BROKE), 1, 0, None),  # what lies beyond is broken: the best rate is inside
        ((FLAT, SOUND, SOUND), 1, 0, None),
        ((SOUND, SOUND, FAILED), 1, 1, 0.032),  # nothing is known of what lies beyond, and it isn't tried again
        ((FAILED, SOUND, FAILED), 1, 1, 0.032),
        ((BROKE, SOUND, BROKE), 1, 0, None),
        ((BROKE, BROKE, BROKE), None, 0, None),
    ],
)
def test_broken_trials_bound_the_grid_and_failed_ones_dont(
    states: tuple[str, ...], leader: int | None, edge: int, further_rate: float | None
) -> None:
    cell = Cell([composed(*TINY, "tuning.trials=3", "tuning.extensions=1")])
    trials = [
        Trial(value, "done" if state == FLAT else state, 0.5 if state in (SOUND, FLAT) else None,
              ("at chance",) if state == FLAT else ())
        for value, state in zip((0.001, 0.0032, 0.01), states, strict=True)
    ]  # fmt: skip
    chosen = None if leader is None else trials[leader]
    assert at_edge(trials, chosen) == edge
    assert further(cell, trials, chosen) == further_rate


def test_only_what_is_doubtful_is_stored_of_a_trial_beside_its_score() -> None:
    assert Trial(0.1, "done", 0.5).stored() == {"value": 0.1, "state": "done", "validation": 0.5}
    assert Trial(0.1, "done", 0.5, ("at chance",), "at chance").stored()["flags"] == ["at chance"]


def test_a_sweep_of_broken_trials_is_refused_with_their_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["adapter=full", "lr=1e37", "trainer.max_steps=6", "tuning.trials=3", "forgetting=none"]
    with pytest.raises(UserError) as error:
        tune(configs(*overrides, f"results_dir={tmp_path}", f"cache_dir={tmp_path}"))
    assert str(error.value) == (
        "No rate could be chosen, as every trial is broken or doubtful:\n"
        "  full: lr=3.2e+36,1e+37,3.2e+37 diverged: the training loss isn't finite at step 3\n"
        "Give another middle of the grid with lr=..., or train for longer."
    )
    assert "1e+37 diverged" in capsys.readouterr().out


def test_a_cell_without_a_rate_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(cell: Cell, values: list[float]) -> tuple[list[Trial], Trial | None]:
        flags = ("constant predictions",) if cell.configs[0].adapter.name == "full" else ()
        trials = [Trial(value, "done", value, flags, ", ".join(flags)) for value in values]
        return trials, best(trials, cell.prior, higher_is_better=True)

    asked: list[str] = []
    monkeypatch.setattr("src.tune.outcome", outcome)
    monkeypatch.setattr("src.tune._run_all", lambda what, runs, *args: asked.append(f"{len(runs)} {what}"))
    overrides = ["adapter=full,lora", "rank=2", "lr=0.001", "seed=0,1", "tuning.trials=3"]
    assert tune(configs(*overrides, f"results_dir={tmp_path}", f"cache_dir={tmp_path}")) is False
    assert asked == ["6 trials", "2 runs"]
    output = capsys.readouterr().out
    assert "not to be chosen: full: lr=0.00032,0.001,0.0032 done: constant predictions" in output
    assert "no rate could be chosen for full: no run" in output


def test_a_cell_says_which_of_its_trials_broke(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = {0.00032: ("done", 0.2), 0.001: ("done", 0.4), 0.0032: ("diverged", None)}

    def outcome(cell: Cell, values: list[float]) -> tuple[list[Trial], Trial | None]:
        trials = [Trial(value, *outcomes[value], reason="" if value < 0.003 else "the loss") for value in values]
        return trials, best(trials, cell.prior, higher_is_better=True)

    monkeypatch.setattr("src.tune.outcome", outcome)
    monkeypatch.setattr("src.tune._run_all", lambda *args: None)
    tune(configs("adapter=full", "lr=0.001", "tuning.trials=3", f"results_dir={tmp_path}", f"cache_dir={tmp_path}"))
    output = capsys.readouterr().out
    assert "0.00032 0.2000  0.001 0.4000 <-  0.0032 diverged" in output
    assert "warning: not to be chosen: full: lr=0.0032 diverged: the loss" in output
    assert "at the edge" not in output


def test_cells_hold_the_runs_that_differ_in_their_seeds_alone() -> None:
    groups = cells(configs("adapter=lora,full", "rank=2,4", "seed=0,1,2"))
    assert [cell.name for cell in groups] == ["lora-r2-all_linear", "lora-r4-all_linear", "full"]
    assert [[config.seed for config in cell.configs] for cell in groups] == [[0, 1, 2]] * 3


def test_a_trial_has_its_own_seed_and_leaves_the_test_split_alone() -> None:
    cell = Cell([composed(*TINY, "adapter=lora", "seed=4")])
    trial = cell.trial(0.5)
    assert (trial.seed, trial.lr, trial.trainer.score_test) == (100, 0.5, False)
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
        (("seed=0,100",), "seed=100 is the seed of the trials"),
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
    assert (len(runs), len(trials)) == (4, 6)
    assert all("test" not in record["metrics"] and record["seeds"]["seed"] == 100 for record in trials)
    for record in runs:
        check_tuned(record, trials)
    again = run_program("src.tune", *overrides)
    assert "6 trials: 6 done already, 0 to run" in again.stdout
    assert "4 runs: 4 done already, 0 to run" in again.stdout
    assert read_all(tmp_path) == records


def check_tuned(record: Record, trials: list[Record]) -> None:
    """A run has the rate that its own trials, read from their records, show to be the best on validation."""
    matches = [trial for trial in trials if trial["config"]["adapter"] == record["config"]["adapter"]]
    scores = {trial["config"]["lr"]: trial["metrics"]["validation"]["value"] for trial in matches}
    stored = record["tuning"]
    assert {trial["value"]: trial["validation"] for trial in stored["trials"]} == scores
    assert record["config"]["lr"] == stored["chosen"]
    assert scores[stored["chosen"]] == max(scores.values())
