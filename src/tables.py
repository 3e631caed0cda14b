"""Write the tables: `python -m src.tables [table=comparison|rank_versus_accuracy|...] [results_dir=results]`.

All but the parameter counts are made of the stored runs in `results_dir`, each where it has content: as Markdown, as
csv with unrounded values, and for LaTeX. A study, whose folder has its name, has its claims and its paper's table
too. The parameter counts set what papers report beside the ledger, depend on no run and take most of a minute; they are
written if they are named, or if neither a table nor a folder is.
"""

from pathlib import Path

import pandas as pd

from src.analysis.collect import collect
from src.analysis.formats import Table, latex, markdown
from src.analysis.sweep import load
from src.analysis.tables import TABLES
from src.config.arguments import answer_help, options
from src.config.composition import user_errors
from src.console import steady_output
from src.errors import UserError, nearest_first
from src.files import write_text
from src.interrupts import interruptible
from src.quiet import quiet_libraries
from src.studies.parameter_counts import parameter_counts, readable_counts
from src.studies.study_tables import CLAIMS, PAPER, counted, made_tables, study_paper_table

MAIN, COUNTS = "comparison", "parameter_counts"


def main() -> None:
    """Write the requested tables to `<results_dir>/tables`, and print the comparison, or the one that is named."""
    answer_help(__doc__)
    with user_errors():
        arguments = options(results_dir="", table="")
        only, results_dir = arguments["table"], Path(arguments["results_dir"] or "results")
        everything = not arguments["table"] and not arguments["results_dir"]
        names = [*TABLES, CLAIMS, PAPER, COUNTS]
        if only and only not in names:
            raise UserError(f"table={only} is not known.\nAllowed: {', '.join(nearest_first(only, names))}.")
        if everything and collect(results_dir).empty:
            print(f"{results_dir} holds no runs yet: nothing to compare")
        elif only != COUNTS:
            write_tables(results_dir, only)
        if everything or only == COUNTS:
            quiet_libraries()
            write_parameter_counts(results_dir / "tables")


def write_tables(results_dir: Path, only: str = "") -> None:
    """Write one table of the stored runs, or all that have content, and print it or the comparison.

    A study that wasn't run yet has its paper's table alone, which says so.

    Raises:
        UserError: there are no runs, or none that the requested table is about.
    """
    folder, stored = results_dir / "tables", collect(results_dir)
    # The paper's numbers and the counts beside them need no run.
    if stored.empty and only in ("", PAPER) and (table := study_paper_table(results_dir.name, stored, pd.DataFrame())):
        tables = {PAPER: table}
    else:
        tables = _of_runs(results_dir, only)
    for name, table in tables.items():
        _write_table(folder / name, table)
    shown = tables[only or (MAIN if MAIN in tables else PAPER)]
    print(f"{markdown(shown.text, shown.notes)}\n{folder}: {', '.join(tables)}, each as .md, .csv and .tex")


def _of_runs(results_dir: Path, only: str) -> dict[str, Table]:
    """The tables of the stored runs that have content, or the requested one."""
    sweep = load(results_dir)
    tables = made_tables(results_dir.name, sweep.records, sweep.comparison, only)
    if not tables:
        with_content = [name for name, make in TABLES.items() if make(sweep.records, sweep.comparison) is not None]
        raise UserError(
            f"table={only} has nothing to show of the runs in {results_dir}.\n"
            f"Tables that have: {', '.join(with_content)}."
        )
    return tables


def _write_table(path: Path, table: Table) -> None:
    """Write a table in its three formats; csv has the values as they were computed."""
    _write(path.with_suffix(".md"), markdown(table.text, table.notes))
    _write(path.with_suffix(".csv"), table.values.to_csv(index=False))
    _write(path.with_suffix(".tex"), latex(table.text, table.notes))


def write_parameter_counts(folder: Path) -> None:
    """Count every configuration that papers report a parameter count of, and write both side by side.

    No weights are loaded: the counts follow from shapes, which takes most of a minute.
    """
    counts = parameter_counts(counted)
    text = readable_counts(counts)
    _write(folder / "parameter_counts.md", markdown(text))
    _write(folder / "parameter_counts.csv", counts.to_csv(index=False))
    _write(folder / "parameter_counts.tex", latex(text))
    verdicts = ", ".join(f"{number} {verdict}" for verdict, number in counts["verdict"].value_counts().items())
    print(f"reported parameter counts: {verdicts}\n{folder}: parameter_counts.md, .csv, .tex")


def _write(path: Path, text: str) -> None:
    """Write a file in one step, so that an interruption leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


if __name__ == "__main__":
    with steady_output(), interruptible():
        main()
