"""Write a finished run's model for other programs.

    python -m src.export results/runs/TASK/MODEL/RUN --format peft
    python -m src.export results/runs/TASK/MODEL/RUN --format merged --to FOLDER

`peft` is an adapter that PEFT loads onto the base model, `merged` a model that needs nothing but transformers. Both
are loaded in a fresh process by the line that is printed and held against the run's stored predictions before they
appear, in RUN/export/FORMAT where no folder is named.
Exit status: 0 if the export is there, 2 for a mistake in what was asked.
"""

import argparse
from pathlib import Path

from src.config.composition import user_errors
from src.console import steady_output
from src.interrupts import interruptible
from src.results.stored_run import finished_run


def main() -> None:
    """Export what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m src.export", description="Write a finished run's model.", allow_abbrev=False
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, the one with result.json in it")
    # Lists, for an option that is given twice to be refused: one would win.
    parser.add_argument("--format", required=True, action="append", help="peft or merged")
    parser.add_argument("--to", action="append", metavar="FOLDER", help="where to (default: RUN/export/FORMAT)")
    arguments = parser.parse_args()
    for option in ("format", "to"):
        if len(getattr(arguments, option) or ()) > 1:
            parser.error(f"--{option} is given twice")
    kind, target = arguments.format[0], Path(arguments.to[0]) if arguments.to else None
    with user_errors():
        finished_run(arguments.run)  # a wrong folder is told before the heavy imports
        from src.quiet import quiet_libraries

        quiet_libraries()
        from src.exporting.export import export
        from src.exporting.reproduction import imports_of

        done = export(arguments.run, kind, target)
    print(f"{done.folder}: {done.written.description}")
    counts = done.reproduced.items()
    same = ", ".join(f"{same} of {total} {split}" for split, (same, _, total) in counts)
    print(f"checked in a fresh process: it gives {same or 'no'} predictions that are stored")
    if ties := sum(ties for _, (_, ties, _) in counts):
        print(f"of the others, {ties} are as likely as the stored ones within rounding")
    print(f"its logits differ from the run's by {done.deviation:.1g} at most")
    if done.written.rounds:
        print(f"note: {done.written.rounds}")
    print(f"load it with: {done.written.usage}")
    print(f"its tokenizer: {done.written.tokenizer_usage}")
    print(f"after: {imports_of(done.written.usage + done.written.tokenizer_usage)}")


if __name__ == "__main__":
    with steady_output(), interruptible():
        main()
