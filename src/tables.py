"""Write the tables: `python -m src.tables [table=comparison|rank_versus_accuracy|...] [results_dir=results]`.

All but the parameter counts are made of the stored runs in `results_dir`, each where it has content: as Markdown, as
csv with unrounded values, and for LaTeX. A study, whose folder has its name, has its claims and its paper's own table
too. The parameter counts set what papers report beside the ledger, depend on no run and take most of a minute; they are
written where they are named, or neither a table nor a folder is.
"""

from functools import partial
from pathlib import Path

import pandas as pd

from src.analysis.arguments import options, runs_in
from src.analysis.claims import claims_table, readable_claims
from src.analysis.collect import collect
from src.analysis.comparison import Comparison, compare
from src.analysis.formats import Table, latex, markdown
from src.analysis.paper_tables import paper_table, readable_paper_table
from src.analysis.parameter_counts import Counted, parameter_counts, readable_counts
from src.analysis.tables import TABLES, MakeTable
from src.composition import user_errors
from src.counting import count_configs, layer_sum, ledger_of, missing_axis
from src.errors import UserError, nearest_first
from src.quiet import quiet_libraries
from src.results.store import replacing

MAIN, CLAIMS, PAPER, COUNTS = "comparison", "claims", "paper", "parameter_counts"


def main() -> None:
    """Write the tables asked for to `<results_dir>/tables`, and print the comparison, or the one that is named."""
    with user_errors():
        given = options(results_dir="", table="")
        asked, results_dir = given["table"], Path(given["results_dir"] or "results")
        everything = not given["table"] and not given["results_dir"]
        known = [*TABLES, CLAIMS, PAPER, COUNTS]
        if asked and asked not in known:
            raise UserError(f"table={asked} is not known.\nAllowed: {', '.join(nearest_first(asked, known))}.")
        if everything and collect(results_dir).empty:
            print(f"{results_dir} holds no runs yet: nothing to compare")
        elif asked != COUNTS:
            write_tables(results_dir, asked)
        if everything or asked == COUNTS:
            quiet_libraries()
            write_parameter_counts(results_dir / "tables")


def write_tables(results_dir: Path, asked: str = "") -> None:
    """Write one table of the stored runs, or all that have content, and print it or the comparison.

    Raises:
        UserError: there are no runs, or none that the table asked for is about.
    """
    runs, folder = runs_in(results_dir), results_dir / "tables"
    found = compare(runs)
    made = {name: draw(runs, found) for name, draw in _tables_of(results_dir.name).items() if asked in ("", name)}
    tables = {name: table for name, table in made.items() if table is not None}
    if not tables:
        raise UserError(
            f"table={asked} has nothing to show of the runs in {results_dir}.\n"
            f"Tables that have: {', '.join(name for name, draw in TABLES.items() if draw(runs, found) is not None)}."
        )
    for name, table in tables.items():
        _write_table(folder / name, table)
    shown = tables[asked or MAIN]
    print(f"{markdown(shown.text, shown.notes)}\n{folder}: {', '.join(tables)}, each as .md, .csv and .tex")


def _tables_of(study: str) -> dict[str, MakeTable]:
    """All tables, and those that only a study of that name has: its claims, and its paper's own."""
    return {**TABLES, CLAIMS: partial(_claims, study), PAPER: partial(_paper, study)}


def _claims(study: str, runs: pd.DataFrame, found: Comparison) -> Table | None:
    table = claims_table(study, found)
    note = (
        "Differences of scores with their 95 % interval; p after Holm over the study's claims. On this model and data."
    )
    return None if table.empty else Table(readable_claims(table), table, [note])


def _paper(study: str, runs: pd.DataFrame, found: Comparison) -> Table | None:
    quiet_libraries()
    table = paper_table(study, found, runs, _counted)
    return None if table.empty else Table(readable_paper_table(table), table, ["† reported by the source."])


def _write_table(path: Path, table: Table) -> None:
    _write(path.with_suffix(".md"), markdown(table.text, table.notes))
    _write(path.with_suffix(".csv"), table.values.to_csv(index=False))
    _write(path.with_suffix(".tex"), latex(table.text, table.notes))


def write_parameter_counts(folder: Path) -> None:
    """Count every configuration that papers report a parameter count of, and write both side by side."""
    found = parameter_counts(_counted)
    text = readable_counts(found)
    _write(folder / "parameter_counts.md", markdown(text))
    _write(folder / "parameter_counts.csv", found.to_csv(index=False))
    _write(folder / "parameter_counts.tex", latex(text))
    verdicts = ", ".join(f"{number} {verdict}" for verdict, number in found["verdict"].value_counts().items())
    print(f"reported parameter counts: {verdicts}\n{folder}: parameter_counts.md, .csv, .tex")


def _counted(overrides: list[str]) -> Counted:
    """Count what a reported configuration fixes; an axis of its method that isn't among the overrides is missing."""
    (config,) = count_configs(overrides)
    missing = missing_axis(config, overrides)
    if missing:
        return Counted(None, missing=missing)
    return Counted(ledger_of(config), sum=layer_sum(config))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
