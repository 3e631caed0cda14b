"""Write the comparison table of the stored runs: `python -m src.tables [results_dir=results]`."""

from src.analysis.arguments import runs_or_exit
from src.analysis.tables import comparison, markdown, readable
from src.results.store import replacing


def main() -> None:
    """Print the table and leave it as Markdown and csv in `<results_dir>/tables`."""
    results_dir, runs = runs_or_exit()
    folder = results_dir / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    table = comparison(runs)
    text = markdown(readable(table))
    with replacing(folder / "comparison.md") as partial:
        partial.write_text(text, encoding="utf-8")
    with replacing(folder / "comparison.csv") as partial:
        table.to_csv(partial, index=False)
    print(f"{text}\n{folder}: comparison.md, comparison.csv")


if __name__ == "__main__":
    main()
