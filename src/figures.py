"""Draw the figures of the stored runs: `python -m src.figures [results_dir=results]`."""

from pathlib import Path

from src.analysis.collect import runs_in
from src.analysis.figures.save import save_all
from src.config.arguments import answer_help, options
from src.config.composition import user_errors
from src.console import steady_output
from src.interrupts import interruptible


def main() -> None:
    """Draw every figure into `<results_dir>/figures`, say where they are, and which ones the runs have nothing for."""
    answer_help(__doc__)
    with user_errors():
        results_dir = Path(options(results_dir="results")["results_dir"])
        runs = runs_in(results_dir)
        files, missing = save_all(runs, results_dir / "figures")
    for file in files:
        print(file)
    for why in missing:
        print(f"not drawn: {why}")


if __name__ == "__main__":
    with steady_output(), interruptible():
        main()
