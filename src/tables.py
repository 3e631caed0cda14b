"""Write the tables: `python -m src.tables [table=comparison|parameter_counts] [results_dir=results]`.

The comparison is made of the stored runs in `results_dir`. The parameter counts set what papers report beside the
ledger, depend on no run and take most of a minute. Both are written where neither a table nor a folder is named, the
comparison alone where a folder is.
"""

from pathlib import Path

from src.analysis.arguments import options, runs_in
from src.analysis.collect import collect
from src.analysis.parameter_counts import Counted, parameter_counts, readable_counts
from src.analysis.tables import comparison, latex, markdown, readable
from src.composition import user_errors
from src.counting import count_configs, layer_sum, ledger_of
from src.errors import UserError, nearest_first
from src.quiet import quiet_libraries
from src.results.store import replacing

TABLES = ("comparison", "parameter_counts")


def main() -> None:
    """Write the tables asked for to `<results_dir>/tables`, and print the comparison."""
    with user_errors():
        given = options(results_dir="", table="")
        asked = given["table"] or ("comparison" if given["results_dir"] else "both")
        results_dir = Path(given["results_dir"] or "results")
        if asked not in (*TABLES, "both"):
            raise UserError(f"table={asked} is not known.\nAllowed: {', '.join(nearest_first(asked, TABLES))}.")
        if asked == "both" and collect(results_dir).empty:
            print(f"{results_dir} holds no runs yet: nothing to compare")
        elif asked != "parameter_counts":
            write_comparison(results_dir)
        if asked != "comparison":
            quiet_libraries()
            write_parameter_counts(results_dir / "tables")


def write_comparison(results_dir: Path) -> None:
    """Compare the stored runs, as Markdown and csv.

    Raises:
        UserError: there are none.
    """
    folder = results_dir / "tables"
    found = comparison(runs_in(results_dir))
    text = markdown(readable(found))
    _write(folder / "comparison.md", text)
    _write(folder / "comparison.csv", found.to_csv(index=False))
    print(f"{text}\n{folder}: comparison.md, comparison.csv")


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
    given = {override.partition("=")[0] for override in overrides}
    for axis, key in (("rank", "rank"), ("target", "target.roles")):
        if config.has_axis(axis) and key not in given:
            return Counted(None, missing=axis)
    return Counted(ledger_of(config), sum=layer_sum(config))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
