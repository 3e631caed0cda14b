"""Choose learning rates on validation, then run the sweep with them.

    python -m src.tune adapter=lora,lora_fa rank=4,8 seed=0,1,2
    python -m src.tune experiment=rank_vs_accuracy tuning.trials=3 tuning.extensions=1
    python -m src.tune experiment=rank_vs_accuracy plan=true detect=0.01

takes what `python -m src.run -m` takes. Every method at every rank and target set gets as many sound trials around its
own rate: half a decade apart, then a quarter of a decade beside the best, and the two best with a second seed. The test
split isn't scored in them. Several copies of the same command, side by side, share the runs. plan=true runs and writes
nothing: it prints what is to run, and what the sweep can find; workers=... is how many runs are done at once (see
src.run).

Exit status: as `python -m src.run`.
"""

import sys
from collections import defaultdict
from pathlib import Path
from textwrap import fill

from src.analysis.terminal import print_runs
from src.config.arguments import answer_help, split_plan, split_sweep, split_workers
from src.config.composer import composer
from src.config.composition import user_errors
from src.config.schema import Config
from src.config.sweeps import sweep_jobs
from src.console import steady_output
from src.errors import UserError
from src.interrupts import RESUMES, interruptible, note_end
from src.results.store import is_done
from src.running.inputs import folder_of, with_steps
from src.running.launch import print_costs, print_findings, print_undetectable, study_of, with_workers
from src.running.search import FINALISTS, Trial
from src.running.shared_runs import do_shared
from src.running.sweep import UNRECORDED, Plan, print_warnings
from src.running.tuning import AtRate, Search, annotate, at_rate, axis, cells, pooled_variances, settled

SHOWN = 10  # reasons in a message
COLUMNS = 80  # of a line of rates


def tune(configs: list[Config], at: AtRate = at_rate, workers: int | None = None) -> bool:
    """Find every cell's rate and run its seeds; say whether all of them are done.

    Args:
        at: gives a run at another rate.
        workers: how many runs are done at once; None: as `worker_count` finds.

    Raises:
        UserError: a run can't be done, the sweep isn't one to tune, or no rate could be chosen for any cell.
    """
    searches = [Search(cell) for cell in cells(configs, at)]
    attempted: set[Path] = set()
    # A list, as each of the searches is to take its step.
    while any([search.advance() for search in searches]):
        trials = [config for search in searches for config in search.runs.values()]
        _run_all("trials", sorted(trials, key=lambda config: config.seed), attempted, workers)
    _print_rates(searches)
    if all(search.rate is None for search in searches):
        raise UserError(_no_rate(searches))
    _print_warnings(searches)
    # Seeds outermost: the ranks of one seed share LoRA-SB's gradient estimate.
    tuned = sorted((config for search in searches for config in search.chosen()), key=lambda config: config.seed)
    _run_all("runs", tuned, attempted, workers)
    pooled = pooled_variances(searches)
    for search, variance in zip(searches, pooled, strict=True):
        for config in search.chosen():
            annotate(folder_of(config), tuning=search.summary(variance))
    folders = [folder_of(config) for config in tuned]
    print_runs(folders, UNRECORDED)
    return all(search.rate for search in searches) and all(map(is_done, folders))


def _run_all(what: str, configs: list[Config], attempted: set[Path], workers: int | None) -> None:
    """Do all runs that aren't done, sharing them with other copies of the command.

    Args:
        attempted: folders of the runs that this command has tried, to which it adds: a failed run isn't repeated.
    """
    plan = Plan.of(configs)
    left = [config for config in configs if not (settled(config) or folder_of(config) in attempted)]
    print(f"{len(configs)} {what}: {len(configs) - len(left)} done already, {len(left)} to run", flush=True)
    try:
        attempted |= {folder_of(ended.config) for ended in do_shared(left, with_workers(plan, workers, configs))}
    except KeyboardInterrupt:
        note_end()
        print_runs([folder_of(config) for config in configs], UNRECORDED)
        raise


def _print_rates(searches: list[Search]) -> None:
    """Print for every cell the validation scores of its rates, the chosen one marked, in lines of `COLUMNS`."""
    for search in searches:
        curve = search.curve
        shown = [_shown(curve.tried[at], chosen=at == curve.chosen) for at in sorted(curve.tried)]
        text = f"{search.cell.name} {search.cell.axis}: " + "  ".join(text.replace(" ", "\0") for text in shown)
        lines = fill(text, COLUMNS, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
        print(lines.replace("\0", " "))


def _print_warnings(searches: list[Search]) -> None:
    """Print what to mind of the chosen rates, the trials that broke, and the cells without a rate."""
    chosen = [(search.cell.name, search.curve, search.curve.chosen) for search in searches]
    found = [(name, curve, at) for name, curve, at in chosen if at is not None]
    edges = [name for name, curve, at in found if curve.edge(at)]
    if edges:
        more = searches[0].cell.budget.extensions + 2
        print(f"warning: the best rate is at the edge of its grid for {', '.join(edges)}")
        print(f"  more trials: tuning.extensions={more}, or another middle with lr=...")
    beside = [name for name, curve, at in found if curve.is_beside_broken(at)]
    if beside:
        print(f"warning: every sound rate is beside one that broke for {', '.join(beside)}")
    short = [f"{name} ({len(curve.sound)} of {curve.budget.useful})" for name, curve, _ in found
             if len(curve.sound) < curve.budget.useful]  # fmt: skip
    if short:
        print(f"warning: fewer sound rates than asked for: {', '.join(short)}")
    for told in _broken(searches):
        print(f"warning: not to be chosen: {told}")
    lost = [search.cell.name for search in searches if search.rate is None]
    if lost:
        print(f"warning: no rate could be chosen for {', '.join(lost)}: no run")


def _broken(searches: list[Search]) -> list[str]:
    """For each cell and what went wrong, a line with the rates at which it did."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for search in searches:
        for trial in search.trials:
            if not trial.is_sound:
                what = f"{trial.state}: {trial.reason.splitlines()[0]}" if trial.reason else trial.state
                rates[f"{search.cell.name}: {search.cell.axis}", what].append(trial.value)
    # One that broke with both seeds is there twice.
    shown = {key: ",".join(f"{value:g}" for value in dict.fromkeys(values)) for key, values in rates.items()}
    return [f"{cell}={values} {what}" for (cell, what), values in shown.items()]


def _no_rate(searches: list[Search]) -> str:
    """That no rate could be chosen for any cell, why, and what to do."""
    broken = _broken(searches)
    more = [f"and {len(broken) - SHOWN} more"] if len(broken) > SHOWN else []
    return "\n  ".join(["No rate could be chosen, as every trial is broken or doubtful:", *broken[:SHOWN], *more]) + (
        f"\nGive another middle of the grid with {searches[0].cell.axis}=..., or train for longer."
    )


def _shown(trials: tuple[Trial, ...], *, chosen: bool) -> str:
    """A rate and its scores by seed, or their state; an arrow marks the chosen one, a star a doubtful score."""
    scores = [
        (trial.state if trial.validation is None else f"{trial.validation:.4f}") + "*" * bool(trial.flags)
        for trial in trials
    ]
    return f"{trials[0].value:g} {'/'.join(scores)}{' <-' if chosen else ''}"


def print_tuning_plan(configs: list[Config], at: AtRate = at_rate) -> None:
    """Print how many trials and runs are done and are to be run, as far as is known before they are.

    Raises:
        UserError: a run can't be done, or the sweep isn't one to tune.
    """
    searches = [Search(cell) for cell in cells(configs, at)]
    Plan.of(configs, is_to_be_run=False)
    trials = [_trials_left(search) for search in searches]
    chosen = [[folder_of(config) for config in search.chosen()] for search in searches if not search.unsettled]
    done = sum(is_done(folder) for folders in chosen for folder in folders)
    print(f"trials of {len(searches)} cells: {sum(settled for settled, _ in trials)} done already, "
          f"at least {sum(left for _, left in trials)} to run")  # fmt: skip
    print(f"runs at the chosen rates: {done} done already, {len(configs) - done} to run")


def _trials_left(search: Search) -> tuple[int, int]:
    """How many trials of a search are settled, and how many are to come at least: edges and broken ones take more."""
    while search.advance() and not search.unsettled:
        pass
    settled = len(search.runs) - len(search.unsettled)
    expected = search.cell.budget.useful + FINALISTS
    return settled, max(len(search.unsettled), expected - settled) if search.unsettled else 0


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
        plan, overrides = split_plan(overrides)
        workers, overrides = split_workers(overrides)
        configs, at = jobs_to_tune(overrides)
        if plan:
            print_tuning_plan(configs, at)
            print_costs(configs)
            print_findings(configs, study_of(overrides), plan.detect)
            return
        print_warnings(configs)
        print_undetectable(configs, study_of(overrides))
        done = tune(configs, at, workers)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    with steady_output(), interruptible(RESUMES):
        main()
