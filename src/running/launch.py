"""One run, or the runs of a sweep, by this program's workers or with one of Hydra's launchers.

Every job is composed and checked once, before the first one starts, so that a mistake anywhere stops them all.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from src.config.composer import composer
from src.config.grammar import parsed
from src.config.schema import Config
from src.config.sweeps import EXPERIMENT, check_hydra_keys, single_job, sweep_jobs
from src.errors import UserError
from src.quoting import written
from src.results.store import is_done
from src.running.inputs import folder_of
from src.running.lifecycle import run
from src.running.shared_runs import do_all
from src.running.sweep import Plan, closing_table, print_warnings
from src.running.worker_count import threads_each, worker_count

LAUNCHER = "hydra/launcher"
SWEEP_DIR = "hydra.sweep.dir"


def run_single(overrides: Sequence[str]) -> bool:
    """Do the one run that is asked for; say whether it is done.

    Raises:
        UserError: it can't be done, or several are asked for.
    """
    with composer() as reader:
        config = reader.config(single_job(reader, overrides))
    plan = Plan.of([config])
    print_warnings([config])
    state = run(config, plan)
    print(f"{'results' if plan.to_run else 'done already'}: {plan.folders[0]}")
    return state == "done"


def run_sweep(overrides: Sequence[str], workers: int | None = None) -> bool:
    """Do all runs of a sweep and print their table; say whether every one is done.

    Args:
        workers: how many of them are done at once, without a launcher of Hydra's; None: as `worker_count` finds.

    Raises:
        UserError: one of them can't be done; none is begun.
    """
    launch = [override for override in overrides if _is_launch(override)]
    check_hydra_keys(map(_key, launch), [SWEEP_DIR, "hydra.launcher", LAUNCHER])
    launcher = [override for override in launch if _key(override) != SWEEP_DIR]
    if launcher and workers:
        raise UserError(f"workers={workers} is of runs that are done here.\nLeave it out beside {launcher[0]}.")
    with composer() as reader:
        for override in launch:
            if _key(override) == LAUNCHER:
                reader.check_choice(override)
        jobs = sweep_jobs(reader, [override for override in overrides if override not in launch])
        configs = [reader.config(job) for job in jobs]
        plan = Plan.of(configs)
        if not launcher:
            plan = with_workers(plan, workers, configs)
        sweep_dir = _sweep_dir(launch, configs[0])
        plan.write(sweep_dir)
        print_warnings(configs)
        print(_counts(plan), flush=True)
        if plan.to_run:
            print_undetectable(configs, study_of(overrides))
        with closing_table(plan):
            if launcher:
                _launch(launcher, jobs, sweep_dir)
            else:
                by_folder = {str(folder_of(config)): config for config in configs}  # two jobs may be one run
                do_all([by_folder[folder] for folder in plan.to_run], plan)
    return all(is_done(Path(folder)) for folder in plan.folders)


def with_workers(plan: Plan, asked: int | None, configs: Sequence[Config]) -> Plan:
    """The plan with as many workers as are asked for, or as fit.

    Args:
        configs: all of the plan's runs, also those that are done: the same command computes with as many threads again.
    """
    if not plan.to_run:
        return plan
    workers = worker_count(asked, configs)
    if workers > 1:
        threads = threads_each(workers)
        at_once = min(workers, len(plan.to_run))
        print(f"{at_once} runs at once, {threads} thread{'s' * (threads > 1)} each", flush=True)
    return replace(plan, workers=workers)


def planned(overrides: Sequence[str], *, is_sweep: bool) -> list[Config]:
    """The runs that a command line asks for, without doing any.

    Raises:
        UserError: one of them can't be done.
    """
    with composer() as reader:
        if not is_sweep:
            return [reader.config(single_job(reader, overrides))]
        return [reader.config(job) for job in sweep_jobs(reader, [o for o in overrides if not _is_launch(o)])]


def study_of(overrides: Sequence[str]) -> str:
    """The experiment that a command line names; empty where it names none, or several."""
    named = [override for override in overrides if _key(override) == EXPERIMENT]
    return str(parsed(named[0]).value()) if len(named) == 1 and "," not in named[0] else ""


def print_plan(configs: list[Config], study: str, detect: float) -> None:
    """Print what a sweep has to do and what it can find, and do nothing.

    Raises:
        UserError: one of the runs can't be done.
    """
    print(_counts(Plan.of(configs, is_to_be_run=False)))
    print_costs(configs)
    print_findings(configs, study, detect)


def print_costs(configs: list[Config]) -> None:
    """Print what each method of a sweep takes; see `src.studies.costs`."""
    from src.studies.costs import cost_lines  # heavy

    print("\n".join(cost_lines(configs)))


def print_findings(configs: list[Config], study: str, detect: float) -> None:
    """Print which differences a sweep can find; see `src.studies.planning.plan_lines`."""
    from src.studies.planning import plan_lines  # heavy, as is all that looks at results

    print("\n".join(plan_lines(configs, study, detect)))


def _counts(plan: Plan) -> str:
    done = len(plan.folders) - len(plan.to_run)
    return f"sweep of {len(plan.folders)} runs: {done} done already, {len(plan.to_run)} to run"


def print_undetectable(configs: Sequence[Config], study: str) -> None:
    """Print the claims of a study that state less than its sweep can find, before anything is spent."""
    if study:
        from src.studies.planning import told_before  # heavy

        for line in told_before(configs, study):
            print(line, flush=True)


def _is_launch(override: str) -> bool:
    return _key(override).startswith(("hydra.", "hydra/"))


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _sweep_dir(launch: Sequence[str], first: Config) -> Path:
    """The sweep's folder, decided once: jobs in other folders and processes look for the plan there."""
    given = [str(parsed(override).value()) for override in launch if _key(override) == SWEEP_DIR]
    folder = Path(given[0]) if given else Path(first.results_dir, "sweeps", f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}")
    return folder.absolute()


def _launch(settings: Sequence[str], jobs: list[list[str]], sweep_dir: Path) -> None:
    """Hand the jobs to Hydra's launcher, which runs each in a process or on a machine of its own.

    Raises:
        UserError: there is no such launcher.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.core.utils import setup_globals
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, RunMode

    loader = GlobalHydra.instance().config_loader()
    master = loader.load_configuration(
        "config", [*settings, f"hydra.sweep.dir={written(str(sweep_dir))}"], RunMode.MULTIRUN
    )
    setup_globals()
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    launcher: Launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=run_job, config=master
    )
    for returned in launcher.launch(jobs, initial_job_idx=0):
        _ = returned.return_value  # raises what went wrong in the job


def run_job(composed: Any) -> None:
    """Do one run of a sweep in a launcher's process: its overrides are composed as the sweep's start did."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    del composed  # Hydra's own composition, which reads the same files
    hydra = HydraConfig.get()
    with composer() as reader:
        config = reader.config(OmegaConf.to_container(hydra.overrides.task, resolve=False))  # type: ignore[arg-type]
    run(config, Plan.read(Path(hydra.sweep.dir)))
