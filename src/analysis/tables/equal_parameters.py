"""Methods at equal parameters: groups of cells that train about as many, each compared with the best of its group."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.statistics import PairedTest, holm
from src.analysis.texts import (
    cell_columns,
    difference,
    frame,
    intervals,
    legend,
    main_score_column,
    p_value,
    unit_of,
    whole,
)

EQUAL_UP_TO = 1.1  # the largest of a group has at most so many times the parameters of the smallest


@dataclass(frozen=True)
class _Group:
    """Rows with about as many parameters, the best of them, and the tests of the others against it."""

    rows: list[int]
    best: int
    tests: dict[int, PairedTest | None]


def equal_parameters(runs: pd.DataFrame, comparison: Comparison) -> Table | None:
    """Groups of cells of different methods whose trained parameters, the head left out, are equal to 10 %.

    A cell may be in several groups: each is as large as it can be. p-values are Holm's for the whole table.
    """
    groups = [_tested(comparison, rows) for rows in _groups(comparison.cells)]
    if not groups:
        return None
    pairs = [(group_index, group.tests.get(row)) for group_index, group in enumerate(groups) for row in group.rows]
    tested = [index for index, (_, test) in enumerate(pairs) if test is not None]
    # All groups are corrected together: a reader looks at the whole table.
    adjusted = dict(zip(tested, holm([test.p_value for _, test in pairs if test is not None]), strict=True))
    # A cell that is in several groups is a row in each of them.
    rows = [row for group in groups for row in group.rows]
    cells = comparison.cells.iloc[rows].reset_index(drop=True)
    bests = [row == group.best for group in groups for row in group.rows]
    texts = [
        "(best)" if best else difference(test, unit_of(cell))
        for best, (_, test), cell in zip(bests, pairs, cells.itertuples(), strict=True)
    ]
    text = frame(
        {
            "group": [str(group_index + 1) for group_index, _ in pairs],
            **cell_columns(cells),
            "trainable params (w/o head)": [whole(size) for size in cells["body_trained"]],
            **dict([main_score_column(cells)]),
            **intervals(cells),
            "n": [str(n) for n in cells["n"]],
            "difference to the group's best (95 %)": texts,
            "p (Holm)": [p_value(adjusted.get(index)) for index in range(len(pairs))],
        }
    )
    differences = [None if test is None else test.difference for _, test in pairs]
    values = cells.assign(group=[group_index + 1 for group_index, _ in pairs], difference=differences)
    return Table(text, values.assign(p_holm=[adjusted.get(index) for index in range(len(pairs))]), legend(cells, text))


def _groups(cells: pd.DataFrame) -> Iterator[list[int]]:
    """The largest sets of rows of a task and model with about as many parameters, of at least two methods."""
    scored = cells[cells["mean"].notna() & (cells["body_trained"] > 0)]
    for _, task_cells in scored.groupby(["task", "model"]):
        ordered = task_cells.sort_values("body_trained", kind="stable")
        sizes = ordered["body_trained"].to_numpy(dtype=float)
        # For each row as the smallest of a group, where the group ends: sizes are in order.
        ends = np.searchsorted(sizes, sizes * EQUAL_UP_TO, side="right")
        for start, end in enumerate(ends):
            # A window that ends where the one before it ends is a part of that one.
            inside = start > 0 and ends[start - 1] == end
            if not inside and ordered["adapter"].iloc[start:end].nunique() > 1:
                yield [int(row) for row in ordered.index[start:end]]


def _tested(comparison: Comparison, rows: list[int]) -> _Group:
    """The group with the tests of its other rows against the best one."""
    means = comparison.cells.loc[rows, "mean"].to_numpy(dtype=float)
    higher = bool(comparison.cells.loc[rows[0], "higher_is_better"])
    best = rows[int(means.argmax() if higher else means.argmin())]
    return _Group(rows, best, {row: comparison.test(row, best) for row in rows if row != best})
