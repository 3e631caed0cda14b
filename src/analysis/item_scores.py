"""The scores of a run's items, read from its predictions."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import ArrowException

from src.errors import UserError
from src.results.store import PREDICTIONS


def item_scores(folder: Path, split: str, metric: str) -> NDArray[np.float32] | None:
    """A number for each item of a split, in the order of its rows, whose mean is the metric.

    None where the predictions aren't there or the metric isn't a mean over items. Predictions of older versions have no
    scores; those of "accuracy" are then found by comparing.

    Raises:
        UserError: the file can't be read.
    """
    path = folder / PREDICTIONS
    if not path.exists():
        return None
    try:
        names = pq.read_schema(path).names
        columns = ["score"] if "score" in names else ["prediction", "reference"]
        table = pq.read_table(path, columns=["split", *columns], use_threads=False, memory_map=True)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read ({error}).\nDelete its folder to run it again.") from error
    table = table.filter(pc.equal(table["split"].cast("string"), split))
    if "score" in names:
        scores = table["score"].to_numpy()
    elif metric == "accuracy":
        scores = (table["prediction"].to_numpy() == table["reference"].to_numpy()).astype(np.float32)
    else:
        return None
    return None if len(scores) == 0 or np.isnan(scores).any() else scores.astype(np.float32, copy=False)
