"""The scores of a run's items, read from its predictions."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from src.analysis.statistics import LEVEL
from src.errors import UserError
from src.results.store import PREDICTIONS

Items = NDArray[np.float32]


@dataclass(frozen=True)
class SplitItems:
    """A number for each item of a split, (items,), and a digest of the items' references in their order.

    Two runs can be compared item by item only where the digests are equal: exchanged items would be no pairs.
    `is_constant` says that all predictions are the same though the references differ, which is no sound score; records
    from before flags don't say so themselves.
    """

    scores: Items
    references: str
    is_constant: bool


def item_scores(folder: Path, split: str, metric: str) -> Items | None:
    """A number for each item of a split, in the order of its rows, whose mean is the metric.

    None where the predictions aren't there or the metric isn't a mean over items. Predictions of older versions have no
    scores; those of "accuracy" are then computed by comparing predictions and references.

    Raises:
        UserError: the file can't be read.
    """
    items = scores_of_splits(folder, {split: metric})[split]
    return None if items is None else items.scores


def scores_of_splits(folder: Path, metrics: dict[str, str]) -> dict[str, SplitItems | None]:
    """The items of several splits, each with its metric, in one reading of the file.

    Raises:
        UserError: the file can't be read.
    """
    path = folder / PREDICTIONS
    if not path.exists():
        return dict.fromkeys(metrics)
    try:
        table = _table(path)
        splits = table["split"].combine_chunks()
        # Comparing small integers is faster than comparing a string for each item.
        coded = splits if pa.types.is_dictionary(splits.type) else splits.dictionary_encode()
        code_of = {name: code for code, name in enumerate(coded.dictionary.to_pylist())}
        codes = coded.indices.to_numpy(zero_copy_only=False)
        return {split: _of_rows(table, codes == code_of.get(split, -1), metric) for split, metric in metrics.items()}
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} can't be read ({error}).\nDelete its folder to run it again.") from error


def stored_columns(folder: Path, split: str, names: list[str]) -> list[NDArray[np.float64]] | None:
    """Columns of numbers of a split's items, (items,) each, NaN where an item has none; None where they aren't stored.

    Raises:
        UserError: the file can't be read.
    """
    path = folder / PREDICTIONS
    if not path.exists():
        return None
    try:
        with pq.ParquetFile(pa.BufferReader(path.read_bytes())) as file:
            if not set(names) <= set(file.schema_arrow.names):
                return None
            table = file.read(columns=["split", *names], use_threads=False)
        rows = table.filter(pc.equal(table["split"].cast(pa.string()), split))
        return [rows[name].cast(pa.float64()).to_numpy() for name in names] if rows.num_rows else None
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} can't be read ({error}).\nDelete its folder to run it again.") from error


def _table(path: Path) -> pa.Table:
    """The columns that hold the scores, or those they can be made of."""
    with pq.ParquetFile(pa.BufferReader(path.read_bytes())) as file:  # a third of the time of pq.read_table
        stored = file.schema_arrow.names
        columns = [name for name in ("split", "score", "prediction", "reference") if name in stored]
        return file.read(columns=columns, use_threads=False)


def _of_rows(table: pa.Table, in_split: NDArray[np.bool_], metric: str) -> SplitItems | None:
    """The scores of the rows where `in_split` is true; None where they have none."""
    if "score" in table.column_names:
        scores = table["score"].to_numpy()[in_split]
    elif metric == "accuracy":
        scores = (table["prediction"].to_numpy() == table["reference"].to_numpy())[in_split]
    else:
        return None
    # A metric that isn't a mean over items is stored as NaN for each of them.
    if len(scores) == 0 or np.isnan(scores).any():
        return None
    rows = table.filter(pa.array(in_split))
    known = {"prediction", "reference"} <= set(table.column_names)
    references = _digest(rows["reference"]) if known else ""
    return SplitItems(scores.astype(np.float32, copy=False), references, known and _is_constant(rows))


def _is_constant(rows: pa.Table) -> bool:
    """Whether all predictions are equal, which answers drawn at the references' shares would hardly be."""
    predictions, references = rows["prediction"], rows["reference"]
    if pa.types.is_nested(predictions.type) or pa.types.is_nested(references.type):
        return False
    if pc.count_distinct(predictions).as_py() > 1:
        return False
    counts = pc.value_counts(references).field("counts").to_numpy()
    return len(counts) > 1 and bool((counts.max() / len(rows)) ** len(rows) < LEVEL)


def _digest(references: pa.ChunkedArray) -> str:
    """A digest of a split's references, which tell its items apart as far as anything stored does."""
    if pa.types.is_integer(references.type) or pa.types.is_floating(references.type):
        content = references.to_numpy().tobytes()  # a tenth of the time of Python's own numbers
    else:
        content = repr(references.to_pylist()).encode()
    return hashlib.sha256(content).hexdigest()[:16]
