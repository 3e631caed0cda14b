"""Forgetting: how much the loss on general text has grown by training."""

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.texts import cell_columns, frame, legend, main_score_column, mean_and_std, whole


def forgetting(runs: pd.DataFrame, comparison: Comparison) -> Table | None:
    """The cells where it was measured, beside their scores; None where it wasn't anywhere."""
    cells = comparison.cells[comparison.cells["forgetting_mean"].notna()]
    if cells.empty:
        return None
    pairs = zip(cells["forgetting_mean"], cells["forgetting_std"], strict=True)
    text = frame(
        {
            **cell_columns(cells),
            "trainable params (w/o head)": [whole(size) for size in cells["body_trained"]],
            **dict([main_score_column(cells)]),
            "forgetting, nats": [mean_and_std(mean, std, "nats") for mean, std in pairs],
            **_in_bits(cells),
            "n": cells["n"].map(str),
        }
    )
    read = "Forgetting: the loss on general text after training minus before, mean ± standard deviation over seeds."
    if "forgetting, bits per byte" in text:
        read = f"{read} Bits per byte: of language models, comparable across tokenizers; - where a run has none."
    # A cell that is missing in silence would look as if it had forgotten nothing.
    left_out = len(comparison.cells) - len(cells)
    notes = [read, *([f"Not measured in {left_out} further rows of the comparison."] if left_out else [])]
    return Table(text, cells, [*notes, *legend(cells, text)])


def _in_bits(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The column in bits per byte, where a cell has it."""
    if cells["forgetting_bits_mean"].isna().all():
        return {}
    pairs = zip(cells["forgetting_bits_mean"], cells["forgetting_bits_std"], strict=True)
    return {"forgetting, bits per byte": [mean_and_std(mean, std, "bits per byte") for mean, std in pairs]}
