"""Draw the figures of the stored runs: `python -m src.figures [results_dir=results]`."""

from pathlib import Path

from src.analysis.arguments import options, runs_in
from src.analysis.figures import save_all
from src.analysis.tables import comparison
from src.composition import user_errors


def main() -> None:
    """Draw every figure into `<results_dir>/figures` and say where they are."""
    with user_errors():
        results_dir = Path(options(results_dir="results")["results_dir"])
        runs = runs_in(results_dir)
    for file in save_all(comparison(runs), results_dir / "figures"):
        print(file)


if __name__ == "__main__":
    main()
