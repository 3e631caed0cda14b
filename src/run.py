"""Run one comparison or a sweep of them.

    python -m src.run adapter=lora rank=8 target=qv seed=0
    python -m src.run -m adapter=lora,lora_fa,lora_sb rank=4,8,16
    python -m src.run -m experiment=nine_runs
    python -m src.run -m experiment=nine_runs plan=true detect=0.01

With -m, values separated by commas are taken in turn. All settings are in docs/settings.md. plan=true runs and writes
nothing: it prints what is to run, which difference the seeds and items can find, and how many seeds detect=... needs.
On a CPU as many runs of a sweep are done at once as there are cores and memory; workers=... says another number.
Exit status: 0 if every run is done, 1 if one isn't, 2 for a mistake in what was asked, 130 when interrupted
(143 by SIGTERM).
"""

import sys

from src.config.arguments import answer_help, split_plan, split_sweep, split_workers
from src.config.composition import user_errors
from src.console import steady_output
from src.errors import UserError
from src.interrupts import RESUMES, interruptible
from src.running.launch import planned, print_plan, run_single, run_sweep, study_of


def main() -> None:
    """Do what the command line asks for; a user's mistake is answered with its message alone."""
    answer_help(__doc__)
    with user_errors():
        overrides, is_sweep = split_sweep(sys.argv[1:])
        plan, overrides = split_plan(overrides)
        workers, overrides = split_workers(overrides)
        if plan:
            print_plan(planned(overrides, is_sweep=is_sweep), study_of(overrides), plan.detect)
            return
        if workers and not is_sweep:
            raise UserError(f"workers={workers} is of a sweep, and this is one run.\nAdd -m, or leave it out.")
        done = run_sweep(overrides, workers) if is_sweep else run_single(overrides)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    with steady_output(), interruptible(RESUMES):
        main()
