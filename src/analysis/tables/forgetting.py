"""Forgetting: how much the loss on general text has grown by training."""

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.texts import frame, legend, named, score, spread, whole


def forgetting(runs: pd.DataFrame, found: Comparison) -> Table | None:
    """The cells where it was measured, beside their scores; None where it wasn't anywhere."""
    cells = found.cells[found.cells["forgetting_mean"].notna()]
    if cells.empty:
        return None
    pairs = zip(cells["forgetting_mean"], cells["forgetting_std"], strict=True)
    text = frame(
        {
            **named(cells),
            "trained, no head": [whole(size) for size in cells["body_trained"]],
            **dict([score(cells)]),
            "forgetting, nats": [spread(mean, std, "nats") for mean, std in pairs],
            "n": cells["n"].map(str),
        }
    )
    read = "Forgetting: the loss on general text after training minus before, mean ± standard deviation over seeds."
    left_out = len(found.cells) - len(cells)
    notes = [read, *([f"Not measured in {left_out} further rows of the comparison."] if left_out else [])]
    return Table(text, cells, [*notes, *legend(cells, text)])
