"""Memory and time of training, each with what it was measured on."""

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.texts import cell_columns, footnotes, frame, rounded, unfinished, whole, word

VALUES = ["task", "model", "adapter", "trained_rank", "rank", "target", "lr", "differs", "trained", "body_trained",
          "weights", "precision", "batch_size", "memory_bytes", "memory_kind", "train_seconds", "tokens_per_second",
          "hardware", "n", "failed", "reason"]  # fmt: skip


def memory_and_time(runs: pd.DataFrame, comparison: Comparison) -> Table | None:
    """The medians over a cell's runs; None where nothing was measured.

    Memory is in megabytes of 1,000,000 bytes and in the values in bytes; "training s" leaves out loading and scoring.
    """
    cells = comparison.cells
    if cells["memory_bytes"].isna().all() and cells["train_seconds"].isna().all():
        return None
    text = frame(
        {
            **cell_columns(cells),
            "trainable params (w/o head)": [whole(size) for size in cells["body_trained"]],
            "weights": cells["weights"].map(word),
            "batch": cells["batch_size"].map(whole),
            "memory, MB": (cells["memory_bytes"].astype(float) / 1e6).map(rounded(1)),
            "memory is": cells["memory_kind"].map(word),
            "training s": cells["train_seconds"].map(rounded(1)),
            "tokens/s": cells["tokens_per_second"].map(rounded(0)),
            "hardware": cells["hardware"].map(word),
            "n": cells["n"].map(str),
            **unfinished(cells),
            **footnotes(cells)[0],
        }
    )
    return Table(text, cells[VALUES], [*footnotes(cells)[1], *_warnings(cells[cells["n"] > 0])])


def _warnings(cells: pd.DataFrame) -> list[str]:
    """What must not be compared in this table."""
    warnings = []
    for column, of in {"hardware": "hardware", "memory_kind": "memory"}.items():
        # Memory on a GPU and on a CPU is counted differently, and seconds are those of a machine.
        kinds = sorted(set(cells[column].dropna()))
        if len(kinds) > 1:
            warnings.append(
                f"Rows differ in their {of} ({'; '.join(kinds)}): numbers of different kinds don't compare."
            )
    return warnings
