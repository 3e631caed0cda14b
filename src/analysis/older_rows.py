"""Results on rows that a task no longer has: they stay readable, and every table says what they were made on."""

import pandas as pd

# By the fingerprint of the data.
OLDER_ROWS = {
    "80c2f7f333a9b72e": "Made on the older rows of docstrings, which had torch, numpy and the standard library in "
    "place of plotly, wandb and statsmodels (CHANGELOG, 0.5.0): the same command gives other numbers now.",
}


def older_rows(runs: pd.DataFrame) -> list[str]:
    """A footnote for each kind of older rows among the runs' data."""
    return [note for fingerprint, note in OLDER_ROWS.items() if (runs["fingerprint"] == fingerprint).any()]
