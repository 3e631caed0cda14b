"""Rank versus score: methods as rows, ranks as columns."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.texts import frame, heading, legend, marked, mean_and_std, number, several, unit_of, word

ROW = ["task", "model", "adapter", "trained_rank", "target", "differs"]
VALUES = [*ROW, "lr", "alpha", "rank", "split", "mean", "std", "low", "high", "n", "tie", "reason"]


def rank_versus_accuracy(runs: pd.DataFrame, comparison: Comparison) -> Table | None:
    """Mean ± deviation (n) of every method at every rank; None where there are no two ranks.

    A method has one row, or one for each combination of those settings that vary while the rank is the same.
    """
    cells = comparison.cells
    ranks = sorted({int(rank) for rank in cells["rank"].dropna()})
    if len(ranks) < 2:
        return None
    rows = [row for _, group in cells.groupby(ROW, dropna=False) for row in _rows(group)]
    columns: dict[str, list[str]] = {
        **several(pd.DataFrame([row.iloc[0] for row in rows])),
        "adapter": [_method(row.iloc[0]) for row in rows],
        "target": [word(row["target"].iloc[0]) for row in rows],
        "lr": [_values(row["lr"]) for row in rows],
        "scaling": [_values(row["scaling"]) for row in rows],
        **({"differs in": [word(row["differs"].iloc[0]) for row in rows]} if cells["differs"].any() else {}),
        **{str(rank): [_at(row[row["rank"] == rank]) for row in rows] for rank in ranks},
    }
    if cells["rank"].isna().any():
        columns["no rank"] = [_at(row[row["rank"].isna()]) for row in rows]
    text = frame(columns)
    of = " or ".join(heading(cells[cells["split"] == split], split) for split in sorted(set(cells["split"])))
    read = f"Each cell: mean ± standard deviation of {of} (number of seeds); several rates are in the order of ranks."
    return Table(text, cells[VALUES], [read, *legend(cells, text)])


def _rows(group: pd.DataFrame, keys: Sequence[str] = ("scaling", "lr")) -> list[pd.DataFrame]:
    """Split cells of a method until no rank is there twice, each part in order of rank."""
    # By scaling first: rates usually differ from rank to rank, and a row may hold a different one at each.
    if not keys or not group["rank"].duplicated().any():
        return [group.sort_values("rank")]
    parts = group.groupby(keys[0], dropna=False)
    return [row for _, part in parts for row in _rows(part, keys[1:])]


def _values(values: pd.Series) -> str:
    """A setting of a row: once where all ranks share it, else in the order of the ranks."""
    texts = [number(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def _method(cell: Any) -> str:
    """The method, and the rank of the training where one training gave several ranks."""
    return str(cell["adapter"]) + (
        "" if pd.isna(cell["trained_rank"]) else f" (trained at rank {cell['trained_rank']})"
    )


def _at(cells: pd.DataFrame) -> str:
    """The score at a rank; where no run was finished, what became of them."""
    return " / ".join(map(_score, cells.itertuples())) or "-"


def _score(cell: Any) -> str:
    """Mean and deviation with the number of seeds; the state of its runs where none was finished."""
    if cell.n == 0:
        return str(cell.reason).partition(":")[0]
    lost = f", {cell.failed} not finished" if cell.failed else ""
    return f"{marked(mean_and_std(cell.mean, cell.std, unit_of(cell)), cell, bold=True)} ({cell.n}{lost})"
