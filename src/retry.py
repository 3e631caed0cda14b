"""Run again what was cut off, interrupted, or failed: of a results folder, or single runs by their names.

    python -m src.retry results_dir=results/my_study
    python -m src.retry lora-r8-all_linear-s0-1a2b3c4d

Runs go on from their checkpoints, where they left one. A run that diverged would again, and is only repeated by its
name. A run whose code, data or versions are others today would be another run: it is left, and said to be.
workers=... is how many are done at once. Exit status: as python -m src.run.
"""

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.config.arguments import answer_help, options, positive_count, split_names
from src.config.composition import user_errors
from src.config.schema import Config
from src.console import steady_output
from src.errors import UserError, first_line, nearest_first
from src.files import read_json
from src.interrupts import RESUMES, interruptible
from src.results.standing import SWEEP_PLANS, Standing, standings
from src.results.store import CONFIG, is_done
from src.results.stored_run import config_from
from src.running.inputs import folder_of
from src.running.launch import with_workers
from src.running.shared_runs import do_all
from src.running.sweep import Plan, closing_table, print_warnings
from src.status import AGAIN


def chosen(names: list[str], results_dir: Path) -> list[Standing]:
    """The runs to do again: those named, or all that another attempt may mend.

    Raises:
        UserError: a name is of no run, or of one that is done or under way; or there is nothing to do again.
    """
    found = standings(results_dir)
    if not names:
        again = [one for one in found if one.state in AGAIN]
        if not again:
            raise UserError(f"{results_dir} has no run to do again.\npython -m src.status says where each stands.")
        return again
    by_name = {one.folder.name: one for one in found}
    for name in (Path(name).name for name in names):
        if name not in by_name:
            near = ", ".join(nearest_first(name, list(by_name))[:3]) or "none, there are no runs"
            raise UserError(f"{name} is no run in {results_dir}.\nAllowed: {near}.")
        if by_name[name].state in ("done", "running", "waiting"):
            raise UserError(f"{name} is {by_name[name].state}.\nOnly a run that ended otherwise is done again.")
    return [by_name[Path(name).name] for name in dict.fromkeys(names)]


def config_to_repeat(folder: Path, results_dir: Path) -> Config:
    """The config of a run, to be done where it is.

    Raises:
        UserError: it can't be read, or makes another run today.
    """
    try:
        stored: Any = read_json(folder / CONFIG)
        config = replace(config_from(stored), results_dir=str(results_dir))
        again = folder_of(config)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"its {CONFIG} can't be read ({first_line(error)})") from error
    if again.absolute() != folder.absolute():
        raise UserError(f"its code, data or settings are others today, which make {again.name}")
    return config


def workers_of_sweep(plan: Plan, results_dir: Path) -> int | None:
    """How many workers the newest sweep had that planned all of these runs, whose threads their checkpoints are of."""
    for path in sorted(results_dir.glob(SWEEP_PLANS), reverse=True):
        with suppress(OSError, ValueError, TypeError):
            sweep = Plan.read(path.parent)
            if set(plan.folders) <= set(sweep.folders):
                return sweep.workers
    return None


def main() -> None:
    """Do again what the command line asks for; a user's mistake ends the program with status 2."""
    answer_help(__doc__)
    with user_errors():
        names, given = split_names(sys.argv[1:])
        asked = options(given, results_dir="results", workers="")
        workers = positive_count("workers", asked["workers"]) if asked["workers"] else None
        configs = []
        for one in chosen(names, Path(asked["results_dir"])):
            try:
                configs.append(config_to_repeat(one.folder, Path(asked["results_dir"])))
            except UserError as error:
                print(f"left: {one.folder.name}: {first_line(error)}")
        if not configs:
            raise UserError("None of these runs can be done again as it was.\nGive the command that made them.")
        plan = Plan.of(configs)
        print_warnings(configs)
        print(f"{len(configs)} runs again", flush=True)
        plan = with_workers(plan, workers or workers_of_sweep(plan, Path(asked["results_dir"])), configs)
        with closing_table(plan):
            do_all(configs, plan)
    sys.exit(0 if all(is_done(Path(folder)) for folder in plan.folders) else 1)


if __name__ == "__main__":
    with steady_output(), interruptible(RESUMES):
        main()
