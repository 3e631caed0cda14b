"""Add seeds to the cells of a study's open claims until each is decided, or hopeless, or the budget is spent.

    python -m src.decide experiment=rank_vs_accuracy max_runs=30
    python -m src.decide experiment=rank_vs_accuracy max_hours=1.5 plan=true

takes what `python -m src.run -m` takes. Claims are looked at with 3, 5, 8 and 12 seeds, at first with stricter bounds,
so that looking often makes no more false verdicts (docs/statistics.md). The study's own seeds come first, then the next
ones. A tuned cell keeps its rate. Runs are stored and skipped as all others are: the same command continues where it
stopped, and several copies of it, side by side, share the runs. max_runs and max_hours bound what this start does;
workers=... is how many runs are done at once (see src.run), and plan=true prints where each claim stands and does
nothing.

Exit status: as `python -m src.run`.
"""

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from src.analysis.collect import collect
from src.analysis.terminal import print_runs
from src.analysis.texts import is_missing
from src.config.arguments import answer_help, is_true, positive_count, positive_number, split_own, split_sweep
from src.config.composition import user_errors
from src.config.schema import Config
from src.config.sweeps import run_configs
from src.console import steady_output
from src.errors import UserError, nearest_first
from src.interrupts import RESUMES, interruptible, note_end
from src.results.store import is_done, readable_record
from src.results.stored_run import config_of
from src.running.inputs import folder_of, with_steps
from src.running.launch import study_of, with_workers
from src.running.shared_runs import do_shared
from src.running.sweep import UNRECORDED, Plan, print_warnings
from src.running.tuning import annotate, settled, tuning_seeds
from src.studies.claims import EXPERIMENTS, Claim, claims, selector_text
from src.studies.deciding import Position, positions, runs_of, seeds_in_order
from src.studies.looks import STAGES, look_of
from src.studies.verdicts import UNDECIDED, Verdict

OWN_OPTIONS = {"max_runs": "", "max_hours": "", "workers": "", "plan": "false"}


@dataclass
class Spending:
    """What this start may do: so many runs, and so many hours, None where there is no bound; and what it has done."""

    max_runs: int | None = None
    max_hours: float | None = None
    workers: int | None = None  # how many runs are done at once; None: as `worker_count` finds
    begun: float = field(default_factory=time.monotonic)
    seconds: list[float] = field(default_factory=list)  # that each run took

    @property
    def hours(self) -> float:
        """Hours since the start."""
        return (time.monotonic() - self.begun) / 3600

    @property
    def is_spent(self) -> bool:
        """Whether another run, taken to last as long as the longest so far, would be beyond it."""
        next_hours = max(self.seconds, default=0.0) / 3600
        too_many = self.max_runs is not None and len(self.seconds) >= self.max_runs
        return too_many or (self.max_hours is not None and self.hours + next_hours > self.max_hours)


@dataclass(frozen=True)
class AddedRun:
    """A run for the next look, and what its record is to say beside its results."""

    config: Config
    facts: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A study that is to be decided: its claims, the configs of its runs, and the seeds of the looks in order."""

    claims: list[Claim]
    configs: list[Config]
    seeds: list[int]

    @property
    def results_dir(self) -> Path:
        """Where its runs are."""
        return Path(self.configs[0].results_dir)

    def positions(self, records: pd.DataFrame) -> list[Position]:
        """Where its claims stand by the records, which are the rows of `collect`."""
        if records.empty:
            return [Position(claim, Verdict(UNDECIDED), 0, needs=STAGES[0]) for claim in self.claims]
        return positions(self.claims, records, self.seeds)


def study_named(overrides: list[str]) -> Study:
    """The study that a command line names.

    Raises:
        UserError: it names none or one without claims, or its runs can't be had.
    """
    name = study_of(overrides)
    configs = [with_steps(config) for config in run_configs(overrides)] if name else []
    if not name or not claims(name):
        given = f"experiment={name} has no claims to decide" if name else "src.decide decides the claims of a study"
        with_claims = nearest_first(name, [path.parent.name for path in EXPERIMENTS.glob("*/claims.yaml")])
        raise UserError(f"{given}.\nAllowed: {', '.join(f'experiment={one}' for one in with_claims)}.")
    folders = sorted({config.results_dir for config in configs})
    if len(folders) > 1:
        raise UserError(f"results_dir has {len(folders)} values: {', '.join(folders)}.\nChoose one.")
    of_tuning = [seed for config in configs for seed in tuning_seeds(config)]
    return Study(claims(name), configs, seeds_in_order([config.seed for config in configs], of_tuning))


def decide(study: Study, budget: Spending) -> bool:
    """Add seeds until every claim is decided or given up, or the budget is spent; say whether every run is done.

    Raises:
        UserError: a run can't be done.
    """
    made: dict[Path, str] = {}  # the runs of this start, with their states
    stuck: dict[str, str] = {}  # claims that can't be gone on with, by their names, and why
    _annotate(study)  # what a start that was cut off left
    try:
        while wanted := _wanted(study, stuck, made):
            print(f"{len(wanted)} runs for the next look", flush=True)
            if not _run_all(wanted, study, budget, made):
                break
    except BaseException:
        note_end()
        raise
    finally:
        if made:
            print_runs(list(made), UNRECORDED)
        print_positions(study.positions(collect(study.results_dir)), stuck)
        print(f"spent: {len(budget.seconds)} runs, {budget.hours:.2f} hours")
    return all(is_done(folder) for folder in made)


def _run_all(wanted: list[AddedRun], study: Study, budget: Spending, made: dict[Path, str]) -> bool:
    """Do the runs as far as the budget allows, sharing them with other copies of the command; False where it is spent.

    Args:
        made: gets the runs of this process with their states.
    """
    if budget.is_spent:
        return False
    allowed = wanted if budget.max_runs is None else wanted[: budget.max_runs - len(budget.seconds)]
    configs, facts = [run.config for run in allowed], {folder_of(run.config): run.facts for run in allowed}
    plan = with_workers(Plan.of(configs), budget.workers, study.configs)
    for ended in do_shared(configs, plan, may_begin=lambda: not budget.is_spent):
        folder = folder_of(ended.config)
        annotate(folder, **facts[folder])
        made[folder] = ended.state
        budget.seconds.append(ended.seconds)
    return not budget.is_spent


def _wanted(study: Study, stuck: dict[str, str], made: dict[Path, str]) -> list[AddedRun]:
    """The runs that open claims need for their next look, each once, the seeds outermost.

    Args:
        stuck: to which claims are added that can't get the runs they need, with the reason.
    """
    wanted: dict[Path, AddedRun] = {}
    records = collect(study.results_dir)
    seen = set(map(Path, records["folder"])) if len(records) else set()
    for position in study.positions(records):
        if not position.needs or position.claim.claim in stuck:
            continue
        try:
            needed = _runs_for(position, study, records)
        except UserError as error:
            stuck[position.claim.claim] = str(error).replace("\n", " ")
            continue
        # What another copy of this command has done since the records were read is no loss.
        lost = [folder for folder, run in needed.items()
                if folder in made or (folder in seen and settled(run.config))]  # fmt: skip
        if lost:
            stuck[position.claim.claim] = f"{lost[0].name} is {_state(lost[0], made)}"
        else:
            wanted |= needed
    return sorted(wanted.values(), key=lambda run: run.config.seed)


def _state(folder: Path, made: dict[Path, str]) -> str:
    """What became of a run that is missing from the comparison."""
    record = readable_record(folder)
    state = str(record["state"]) if record else made.get(folder, "without a record")
    return "done, but in another row: made by other code, versions or hardware" if state == "done" else state


def _runs_for(position: Position, study: Study, records: pd.DataFrame) -> dict[Path, AddedRun]:
    """The runs that a claim's cells lack for its next look, by their folders.

    Raises:
        UserError: it isn't known which config makes them.
    """
    needed: dict[Path, AddedRun] = {}
    seeds = study.seeds[: position.needs]
    of_cells = runs_of(position.claim, records, seeds) if not records.empty else [records, records]
    for selector, runs in zip((position.claim.left, position.claim.right), of_cells, strict=True):
        base = _stored(runs, study) if len(runs) else _planned(selector, study, records)
        for seed in seeds:
            if seed not in set(runs["seed"] if len(runs) else []):
                config = replace(base, seed=seed)
                needed[folder_of(config)] = AddedRun(config, _facts(seed, runs, study))
    return needed


def _stored(runs: pd.DataFrame, study: Study) -> Config:
    """The config of a cell's runs, where results and data are now.

    Raises:
        UserError: the same config makes another run now, which would be no repetition of these.
    """
    folder = Path(runs["folder"].iloc[0])
    record = readable_record(folder)
    assert record is not None  # it was read a moment ago
    stored, here = config_of(record), study.configs[0]
    config = replace(
        stored,
        results_dir=here.results_dir,
        cache_dir=here.cache_dir,
        tracking=here.tracking,
        task=replace(stored.task, data_dir=here.task.data_dir),
        model=replace(stored.model, path=here.model.path),
    )
    if folder_of(config).name != folder.name:
        raise UserError(
            f"{folder.name} was made by other code, data or settings than a new seed would be.\n"
            "Make the study's runs again, or decide it with the code that made them."
        )
    return config


def _facts(seed: int, runs: pd.DataFrame, study: Study) -> dict[str, Any]:
    """What the record of a cell's run is to say: how the cell's rate was chosen, and for which look it was added.

    Args:
        runs: the cell's.
    """
    tunings = [tuning for tuning in (runs["tuning"] if len(runs) else []) if tuning]
    facts = {"tuning": tunings[0]} if tunings else {}
    is_planned = seed in {config.seed for config in study.configs}
    return facts if is_planned else facts | {"look_seeds": STAGES[look_of(1 + study.seeds.index(seed))]}


def _annotate(study: Study) -> None:
    """Give the runs of a start that was cut off what their records are to say."""
    records = collect(study.results_dir)
    for claim in study.claims if not records.empty else []:
        for runs in runs_of(claim, records, study.seeds):
            for run in runs.itertuples():
                facts = _facts(run.seed, runs, study)
                missing = {key: fact for key, fact in facts.items() if is_missing(getattr(run, key))}
                annotate(Path(run.folder), **missing)


def _planned(selector: dict[str, Any], study: Study, records: pd.DataFrame) -> Config:
    """The study's config of a cell that has no run yet.

    Raises:
        UserError: none or several fit, or the study's other cells are tuned, as this one isn't yet.
    """
    found = {repr(replace(config, seed=0)): config for config in study.configs if _fits(config, selector)}
    shown = selector_text(selector)
    if len(found) != 1:
        raise UserError(f"{shown} fits {len(found)} of the study's cells.\nName one in claims.yaml.")
    if not records.empty and records["tuning"].notna().any():
        raise UserError(f"{shown} has no run, and the study's rates are tuned.\nRun python -m src.tune first.")
    return next(iter(found.values()))


def _fits(config: Config, selector: dict[str, Any]) -> bool:
    """Whether a selector names the run's cell."""
    facts: dict[str, Any] = {"task": config.task.name, "model": config.model.name, "adapter": config.adapter.name}
    axes = {"rank": config.rank, "target": config.target.name, "lr": config.lr}
    facts |= {axis: value for axis, value in axes.items() if config.has_axis(axis)}
    return all(facts.get(key) == value for key, value in selector.items())


def print_positions(found: list[Position], stuck: dict[str, str]) -> None:
    """Print a line for each claim: its verdict, with how many seeds, and why it isn't gone on with."""
    for position in found:
        why = stuck.get(position.claim.claim) or position.verdict.why
        if position.needs and not why:
            why = f"to be looked at with {position.needs} seeds"
        print(f"  {position.claim.claim}: {position.verdict.text} with {position.seeds} seeds{why and f'; {why}'}")


def main() -> None:
    """Decide the claims of the study that the command line names; a user's mistake ends the program with status 2."""
    answer_help(__doc__)
    with user_errors():
        overrides, _ = split_sweep(sys.argv[1:])
        values, of_runs = split_own(overrides, OWN_OPTIONS)
        budget = Spending(
            positive_count("max_runs", values["max_runs"]) if values["max_runs"] else None,
            positive_number("max_hours", values["max_hours"]) if values["max_hours"] else None,
            positive_count("workers", values["workers"]) if values["workers"] else None,
        )
        study = study_named(of_runs)
        if is_true("plan", values["plan"]):
            stuck: dict[str, str] = {}
            wanted = _wanted(study, stuck, {})
            print_positions(study.positions(collect(study.results_dir)), stuck)
            print(f"{len(wanted)} runs for the next look")
            return
        print_warnings(study.configs)
        done = decide(study, budget)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    with steady_output(), interruptible(RESUMES):
        main()
