"""Write the report: `python -m src.report [results_dir=results]`.

One HTML file with the study's claims, every cell's difference to a baseline, and every run, table and warning, to be
sorted, filtered and looked at in a browser, from disk and without a network.
"""

from pathlib import Path

from src.analysis.report.data import report_data
from src.analysis.report.page import page
from src.analysis.sweep import load
from src.config.arguments import answer_help, options
from src.config.composition import user_errors
from src.console import steady_output
from src.files import write_text
from src.interrupts import interruptible
from src.studies.study_tables import made_tables


def main() -> None:
    """Write `<results_dir>/report.html` and say where it is."""
    answer_help(__doc__)
    with user_errors():
        results_dir = Path(options(results_dir="results")["results_dir"])
        path = write_report(results_dir)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; open it in a browser")


def write_report(results_dir: Path) -> Path:
    """Make the report of the stored runs; returns its file.

    Raises:
        UserError: there are no runs, or runs of several versions of the code.
    """
    sweep = load(results_dir)
    tables = made_tables(results_dir.name, sweep.records, sweep.comparison)
    path = results_dir / "report.html"
    write_text(path, page(report_data(sweep, tables)))
    return path


if __name__ == "__main__":
    with steady_output(), interruptible():
        main()
