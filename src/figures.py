"""Draw the figures of the stored runs: `python -m src.figures [results_dir=results]`."""

from src.analysis.arguments import runs_or_exit
from src.analysis.figures import save_all
from src.analysis.tables import comparison


def main() -> None:
    """Draw every figure into `<results_dir>/figures` and say where they are."""
    results_dir, runs = runs_or_exit()
    for file in save_all(comparison(runs), results_dir / "figures"):
        print(file)


if __name__ == "__main__":
    main()
