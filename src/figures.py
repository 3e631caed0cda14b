"""Draw the figures of the stored runs: `python -m src.figures [results_dir=results] [baseline='lora r8']`.

The forest plot compares every cell with the baseline: LoRA at its most common rank, where none is named.
"""

from pathlib import Path

from src.analysis.figures.save import save_all
from src.analysis.sweep import load
from src.config.arguments import answer_help, options
from src.config.composition import user_errors
from src.console import steady_output
from src.interrupts import interruptible


def main() -> None:
    """Draw every figure into `<results_dir>/figures`, say where they are, and which ones the runs have nothing for."""
    answer_help(__doc__)
    with user_errors():
        arguments = options(results_dir="results", baseline="")
        results_dir = Path(arguments["results_dir"])
        files, missing = save_all(load(results_dir), results_dir / "figures", arguments["baseline"])
    for file in files:
        print(file)
    for why in missing:
        print(f"not drawn: {why}")


if __name__ == "__main__":
    with steady_output(), interruptible():
        main()
