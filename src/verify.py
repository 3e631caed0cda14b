"""Repeat stored runs from their records, and compare every tensor, prediction and metric bit for bit.

    python -m src.verify results/runs/docstrings/minilm/lora-r8-all_linear-s0-1a2b3c4d
    python -m src.verify results/nine_runs              # every finished run below a folder
    python -m src.verify RUN checkout=../as_it_was      # the code that made a run, in a folder of its own

Where a run comes out the same under other code than made it, the two codes are written to results/equivalences.yaml as
equal for its method and task: older results then count as made by today's code.

Exit status: 0 if every run is the same, 1 if one isn't, 2 for a mistake in what was asked, 130 when interrupted.
"""

import sys
from pathlib import Path

from src.config.arguments import answer_help, options, split_names
from src.config.composition import user_errors
from src.console import steady_output
from src.errors import UserError
from src.interrupts import interruptible
from src.quiet import quiet_libraries
from src.results.checkout import check_out
from src.results.equivalences import EQUIVALENCES, add_equivalence
from src.results.store import folders_below, read_record
from src.running.repeat import Repetition, repeat

SHOWN = 4  # names of different values
LABELS = {"history": "losses", "smaller_ranks": "smaller ranks", "parameters": "counts"}


def verify(folders: list[Path]) -> bool:
    """Repeat each run and print what came out; say whether all are the same."""
    same = 0
    for number, folder in enumerate(folders, start=1):
        print(f"[{number}/{len(folders)}] {folder.name}", flush=True)
        try:
            repetition = repeat(folder)
        # Whatever is wrong with one, the others are still to be compared.
        except Exception as error:
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            print(f"  can't be repeated here: {said}".replace("\n", "\n  "))
            continue
        _print_outcome(repetition)
        if repetition.is_proof and repetition.proof:
            add_equivalence(
                repetition.method, repetition.task, repetition.older, repetition.newer, repetition.proof
            )  # fmt: skip
            print(f"  its code and this one are equal for {repetition.method}: {EQUIVALENCES.name}")
        same += repetition.is_same
    print(f"{same} of {len(folders)} runs bit-identical")
    return same == len(folders)


def _print_outcome(repetition: Repetition) -> None:
    if repetition.is_same:
        counts = ", ".join(f"{count:,} {LABELS.get(kind, kind)}" for kind, count in repetition.equal.items())
        print(f"  bit-identical: {counts}")
    for kind, names in repetition.different.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        print(f"  {kind} differ: {', '.join(names[:SHOWN])}{more}")
    if repetition.is_same and not repetition.equal.get("tensors"):
        print("  its record has no digests of tensors: these weren't compared, and no code is called equal")
    if repetition.made_with:
        print(f"  it was made with other {'; '.join(repetition.made_with)}")
    elif not repetition.is_same:
        print("  code, versions and hardware are the record's")


def runs_below(names: list[str]) -> list[Path]:
    """The runs that the names stand for: folders of runs, or folders with finished runs below them.

    Raises:
        UserError: a name has none.
    """
    runs: dict[Path, None] = {}
    for name in names:
        folder = Path(name)
        finished = [run for run in folders_below(folder) if _is_finished_or_damaged(run)]
        if not finished:
            raise UserError(f"{name} has no finished run.\nName a run, as in results/runs/TASK/MODEL/RUN, or a folder.")
        runs |= dict.fromkeys(finished)
    return list(runs)


def _is_finished_or_damaged(run: Path) -> bool:
    """Whether `repeat` is to be asked: a record that can't be read may be a finished run's, and is said to be so."""
    try:
        record = read_record(run)
    except UserError:
        return True
    return record is not None and record["state"] == "done"


def main() -> None:
    """Verify or check out what the command line names; a user's mistake ends the program with status 2."""
    answer_help(__doc__)
    with user_errors():
        names, given = split_names(sys.argv[1:])
        checkout = options(given, checkout="")["checkout"]
        if not names:
            raise UserError("Which run?\nName one, as in results/runs/TASK/MODEL/RUN, or a folder with runs.")
        if checkout and len(names) > 1:
            raise UserError(f"checkout={checkout} is for the code of one run, and {len(names)} are named.\nName one.")
        if checkout:
            check_out(Path(names[0]), Path(checkout))
            return
        quiet_libraries()
        same = verify(runs_below(names))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    with steady_output(), interruptible():
        main()
