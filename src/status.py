"""Where the runs of a results folder stand: which are done, under way or to come, and why others ended.

    python -m src.status
    python -m src.status results_dir=results/my_study --watch

Beside the counts it has a line for each run that isn't done: the step it is at, the time left, the reason. --watch
prints it again every few seconds, until all is still. What was cut off, interrupted or has failed, python -m src.retry
runs again. Exit status: 0 if every run is done or to come, 1 if one ended otherwise, 2 for a mistake in what was asked.
"""

import sys
import time
from collections import Counter
from pathlib import Path

from src.config.arguments import answer_help, options
from src.config.composition import user_errors
from src.console import columns, one_line, steady_output
from src.errors import UserError
from src.interrupts import interruptible
from src.quoting import command_line, written
from src.results.standing import STANDINGS, Standing, standings
from src.running.progress import duration

WATCH = "--watch"
WATCH_SECONDS = 5.0
SHOWN = 40  # runs of a state, beside a line that says how many more there are
FINE = ("running", "waiting", "done")
AGAIN = ("cut off", "interrupted", "failed", "out_of_memory")  # what another attempt may mend


def status_lines(results_dir: Path) -> tuple[list[str], list[Standing]]:
    """What is to be printed of a results folder, and where its runs stand.

    Raises:
        UserError: there are no runs.
    """
    found = standings(results_dir)
    if not found:
        raise UserError(f"{results_dir} holds no runs.\nName a folder with results_dir=...")
    counts = Counter(one.state for one in found)
    told = ", ".join(f"{counts[state]:,} {state.replace('_', ' ')}" for state in reversed(STANDINGS) if counts[state])
    left = _seconds_left(found)
    lines = [f"{results_dir}: {len(found):,} runs: {told}" + (f"; {duration(left)} left" if left else "")]
    for state in STANDINGS[:-1]:
        of_state = [one for one in found if one.state == state]
        lines += [_line(one) for one in of_state[:SHOWN]]
        lines += [f"{state:<12} and {len(of_state) - SHOWN:,} more"] if len(of_state) > SHOWN else []
    if any(counts[state] for state in AGAIN):
        lines.append(f"again: {command_line('src.retry', [f'results_dir={written(str(results_dir))}'])}")
    return lines, found


def _line(one: Standing) -> str:
    step = f"step {one.step:,}/{one.max_steps:,}" if one.max_steps else ""
    left = f"{duration(one.seconds)} left" if one.state == "running" and one.seconds else ""
    parts = [f"{one.state.replace('_', ' '):<13} {one.folder.name:<36}", step, left, one.reason]
    return one_line("  ".join(part for part in parts if part).rstrip(), columns() or 1000)


def _seconds_left(found: list[Standing]) -> float | None:
    """Until all is done that is under way or waits, with as many at once as now; None where that can't be told yet."""
    running = [one.seconds for one in found if one.state == "running"]
    taken = [one.seconds for one in found if one.state == "done" and one.seconds is not None]
    waiting = sum(one.state == "waiting" for one in found)
    if not running or None in running or (waiting and not taken):
        return None
    to_come = waiting * sum(taken) / len(taken) if waiting else 0.0
    return (to_come + sum(seconds for seconds in running if seconds is not None)) / len(running)


def main() -> None:
    """Print where the runs stand; a user's mistake ends the program with status 2."""
    answer_help(__doc__)
    with user_errors():
        watches = WATCH in sys.argv[1:]
        asked = options([argument for argument in sys.argv[1:] if argument != WATCH], results_dir="results")
        results_dir = Path(asked["results_dir"])
        while True:
            lines, found = status_lines(results_dir)
            print("\n".join(lines), flush=True)
            if not watches or not any(one.state == "running" for one in found):
                break
            time.sleep(WATCH_SECONDS)
            print(flush=True)
    sys.exit(0 if all(one.state in FINE for one in found) else 1)


if __name__ == "__main__":
    with steady_output(is_product=True), interruptible("nothing was changed"):
        main()
