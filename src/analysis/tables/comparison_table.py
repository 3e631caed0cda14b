"""The comparison: a row a cell, with its settings, its parameters and its scores."""

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.texts import (
    footnotes,
    intervals,
    legend,
    number,
    rank,
    rounded,
    score_column,
    scored_by,
    secondary_columns,
    several,
    tuning_regrets,
    unfinished,
    whole,
    word,
)  # fmt: skip

SECONDARY = "Log probability and bits per byte: how likely the right answers are, on the split that counts."


def comparison_table(runs: pd.DataFrame, comparison: Comparison) -> Table:
    """Every cell, none left out; footnotes say what the numbers of some can't be compared with."""
    text = readable(comparison.cells)
    notes = [*footnotes(comparison.cells)[1], *legend(comparison.cells, text)]
    if comparison.cells["secondary"].notna().any():
        notes.append(f"{SECONDARY} Mean ± standard deviation over seeds (95 % interval).")
    return Table(text, comparison.cells, notes)


def readable(cells: pd.DataFrame) -> pd.DataFrame:
    """The comparison as texts for people: scores with their spread, shares in percent, counts with separators.

    The task, the model and the metrics have columns where the table holds several.
    """
    columns = {
        **several(cells),
        **scored_by(cells),
        "adapter": cells["adapter"],
        "rank": [rank(cell) for cell in cells.itertuples()],
        "target": cells["target"].map(word),
        "lr": cells["lr"].map(number),
        "tuning": cells["tuning"],
        "scaling": cells["scaling"].map(number),
        "trainable params (w/o head)": cells["body_trained"].map(whole),
        "trained % of all": cells["trained_percent"].map(rounded(3)),
        **dict(score_column(cells, split) for split in ("validation", "test")),
        **intervals(cells),
        **tuning_regrets(cells),
        **secondary_columns(cells),
        "n": cells["n"].map(str),
        "run time (s)": cells["run_seconds"].map(rounded(0)),
        **({"differs in": cells["differs"].map(word)} if cells["differs"].any() else {}),
        **unfinished(cells),
        **footnotes(cells)[0],
    }
    return pd.DataFrame(columns)
