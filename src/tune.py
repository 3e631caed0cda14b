"""Choose learning rates on validation, then run the sweep with them.

    python -m src.tune adapter=lora,lora_fa rank=4,8 seed=0,1,2
    python -m src.tune experiment=rank_vs_accuracy tuning.trials=3 tuning.extensions=1

takes what `python -m src.run -m` takes. Every method at every rank and target set gets the same number of trials around
its own rate; the test split isn't scored in them. Several copies of the same command, side by side, share the runs.

Exit status: as `python -m src.run`.
"""

import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.analysis.terminal import print_runs
from src.config.arguments import answer_help, split_sweep
from src.config.composer import composer
from src.config.composition import user_errors
from src.config.schema import Config
from src.config.sweeps import sweep_jobs
from src.console import steady_output
from src.errors import UserError
from src.files import write_json
from src.interrupts import RESUMES, interruptible, note_end
from src.results.store import RESULT, is_done, is_held
from src.running.inputs import folder_of, with_steps
from src.running.lifecycle import run
from src.running.sweep import UNRECORDED, Plan, print_warnings
from src.running.tuning import AtRate, Cell, Trial, at_edge, at_rate, axis, cells, further, grid, outcome, record_of

POLL_SECONDS = 2.0
SHOWN = 10  # reasons in a message


@dataclass
class Search:
    """The rates that are tried for a cell, and what they gave so far."""

    cell: Cell
    values: list[float]
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None

    @classmethod
    def of(cls, cell: Cell) -> "Search":
        """The search at its start."""
        return cls(cell, grid(cell.prior, cell.configs[0].tuning.trials))

    def extend(self) -> bool:
        """Take in what the trials gave; add a rate, and say so, where the grid is to be extended."""
        self.trials, self.best = outcome(self.cell, self.values)
        value = further(self.cell, self.trials, self.best)
        if value is None:
            return False
        self.values.append(value)
        return True

    def chosen(self) -> list[Config]:
        """The cell's runs at the best rate; none where no trial is sound."""
        return self.cell.chosen(self.best.value) if self.best else []

    @property
    def at_edge(self) -> bool:
        """Say whether the best rate is the lowest or the highest that was tried."""
        return at_edge(self.trials, self.best) != 0

    def summary(self) -> dict[str, Any]:
        """What is stored with every run of the cell: its trials, the chosen rate, whether it is at the grid's edge."""
        assert self.best is not None
        return {
            "axis": self.cell.axis,
            "seed": self.cell.configs[0].tuning.seed,
            "trials": [trial.stored() for trial in sorted(self.trials, key=lambda trial: trial.value)],
            "chosen": self.best.value,
            "at_edge": self.at_edge,
        }


def tune(configs: list[Config], at: AtRate = at_rate) -> bool:
    """Find every cell's rate and run its seeds; say whether all of them are done.

    Args:
        at: gives a run at another rate.

    Raises:
        UserError: a run can't be done, the sweep isn't one to tune, or no rate could be chosen for any cell.
    """
    searches = [Search.of(cell) for cell in cells(configs, at)]
    attempted: set[Path] = set()
    extended = searches
    while extended:
        trials = [search.cell.trial(value) for search in searches for value in search.values]
        _run_all("trials", trials, attempted)
        extended = [search for search in searches if search.extend()]
    _print_rates(searches)
    if not any(search.best for search in searches):
        raise UserError(_no_rate(searches))
    _print_warnings(searches)
    tuned = [(config, search) for search in searches for config in search.chosen()]
    # Seeds outermost: the ranks of one seed share LoRA-SB's gradient estimate.
    tuned.sort(key=lambda pair: pair[0].seed)
    _run_all("runs", [config for config, _ in tuned], attempted)
    for config, search in tuned:
        _annotate(config, search.summary())
    folders = [folder_of(config) for config, _ in tuned]
    print_runs(folders, UNRECORDED)
    return all(search.best for search in searches) and all(map(is_done, folders))


def _run_all(what: str, configs: list[Config], attempted: set[Path]) -> None:
    """Do all runs that aren't done; wait for those that other workers are running, and do what they leave undone.

    Args:
        attempted: folders of the runs that this command has tried, to which it adds: a failed run isn't repeated.
    """
    plan = Plan.of(configs)
    left = [config for config in configs if not (_settled(config) or folder_of(config) in attempted)]
    print(f"{len(configs)} {what}: {len(configs) - len(left)} done already, {len(left)} to run", flush=True)
    try:
        while left:
            left = _run_free(left, plan, attempted)
            if left:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        note_end()
        print_runs([folder_of(config) for config in configs], UNRECORDED)
        raise


def _run_free(left: list[Config], plan: Plan, attempted: set[Path]) -> list[Config]:
    """Do the runs that no other worker holds; returns those that one does."""
    waiting = []
    for config in left:
        # A run that another worker holds is asked for again: it may fail there, or be left unfinished.
        if is_held(folder_of(config)):
            waiting.append(config)
        elif not _settled(config):
            run(config, plan)
            attempted.add(folder_of(config))
    return waiting


def _settled(config: Config) -> bool:
    """Say whether another attempt would change nothing: the run is done, or diverged as it would again."""
    record = record_of(config)
    return record is not None and record["state"] in ("done", "diverged")


def _annotate(config: Config, tuning: dict[str, Any]) -> None:
    """Store with a finished run how its rate was chosen."""
    record = record_of(config)
    if record is not None and record["state"] == "done" and record.get("tuning") != tuning:
        write_json(folder_of(config) / RESULT, record | {"tuning": tuning})


def _print_rates(searches: list[Search]) -> None:
    """Print for every cell the validation scores of its trials, the chosen rate marked."""
    for search in searches:
        ordered = sorted(search.trials, key=lambda trial: trial.value)
        shown = [_shown(trial, chosen=trial == search.best) for trial in ordered]
        print(f"  {search.cell.name:<28} {search.cell.axis}: {'  '.join(shown)}")


def _print_warnings(searches: list[Search]) -> None:
    """Print what to mind of the chosen rates: those at an edge, the trials that broke, the cells without a rate."""
    edges = [search.cell.name for search in searches if search.at_edge]
    if edges:
        more = searches[0].cell.configs[0].tuning.extensions + 2
        print(f"warning: the best rate is at the edge of its grid for {', '.join(edges)}")
        print(f"  more trials: tuning.extensions={more}, or another middle with lr=...")
    for told in _broken(searches):
        print(f"warning: not to be chosen: {told}")
    lost = [search.cell.name for search in searches if search.best is None]
    if lost:
        print(f"warning: no rate could be chosen for {', '.join(lost)}: no run")


def _broken(searches: list[Search]) -> list[str]:
    """For each cell and what went wrong, a line with the rates at which it did."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for search in searches:
        for trial in sorted(search.trials, key=lambda trial: trial.value):
            if not trial.is_sound:
                what = f"{trial.state}: {trial.reason.splitlines()[0]}" if trial.reason else trial.state
                rates[f"{search.cell.name}: {search.cell.axis}", what].append(trial.value)
    return [f"{cell}={','.join(f'{value:g}' for value in values)} {what}" for (cell, what), values in rates.items()]


def _no_rate(searches: list[Search]) -> str:
    """That no rate could be chosen for any cell, why, and what to do."""
    broken = _broken(searches)
    more = [f"and {len(broken) - SHOWN} more"] if len(broken) > SHOWN else []
    return "\n  ".join(["No rate could be chosen, as every trial is broken or doubtful:", *broken[:SHOWN], *more]) + (
        f"\nGive another middle of the grid with {searches[0].cell.axis}=..., or train for longer."
    )


def _shown(trial: Trial, *, chosen: bool) -> str:
    """A trial's rate and score, or its state; an arrow marks the chosen one, a star a doubtful one."""
    score = trial.state if trial.validation is None else f"{trial.validation:.4f}"
    return f"{trial.value:g} {score}{'*' if trial.flags else ''}{' <-' if chosen else ''}"


def jobs_to_tune(overrides: list[str]) -> tuple[list[Config], AtRate]:
    """The runs of a sweep, and what gives each at another rate: composed anew, for other settings may follow the rate.

    Raises:
        UserError: a run can't be composed, or its data can't be had.
    """
    with composer() as reader:
        jobs = sweep_jobs(reader, overrides)
    configs = [with_steps(reader.config(job)) for job in jobs]
    job_of = {id(config): job for config, job in zip(configs, jobs, strict=True)}  # they live as long as the search

    def at(config: Config, value: float) -> Config:
        return with_steps(reader.config([*job_of[id(config)], f"{axis(config)}={value!r}"]))

    return configs, at


def main() -> None:
    """Tune and run what the command line asks for; a user's mistake ends the program with status 2."""
    answer_help(__doc__)
    with user_errors():
        overrides, _ = split_sweep(sys.argv[1:])
        configs, at = jobs_to_tune(overrides)
        print_warnings(configs)
        done = tune(configs, at)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    with steady_output(), interruptible(RESUMES):
        main()
