"""The secondary outcome of a cell: how likely its runs find the right answers, ready for the tests of its scores.

A log-probability is a mean over items. Bits per byte are a ratio of two sums, bits over bytes, which the same tests and
intervals take in its linear form: an item's value is the ratio plus what its bits are above those that its bytes would
take at the ratio, divided by the items' mean bytes. Their mean is the ratio, and their spread gives its standard error
(Cochran 1977, section 6.4), as it does for the difference of two ratios over the same bytes.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.analysis.item_scores import Items, stored_columns
from src.errors import UserError

TOLERANCE = 1e-4  # between a run's value and that of its items, which are stored in single precision
COLUMNS = {"log_probability": ["log_probability"], "bits_per_byte": ["answer_nats", "answer_bytes"]}
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Secondary:
    """A cell's secondary outcome on one split: what it is, each run's value, and the values behind them.

    `values` is (seeds, items) where every run has those of its items, else (seeds, 1); `data` says what they are of.
    """

    name: str
    unit: str
    higher_is_better: bool
    seeds: list[int]
    run_values: list[float]
    values: Items
    data: Hashable


def secondary_of(runs: list[dict[str, Any]], split: str) -> tuple[Secondary | None, list[str]]:
    """The secondary outcome of a cell's finished runs on a split, and why it has none or isn't used by item.

    None unless all of the runs have the same one, over as many items: nothing is averaged over some of them.
    """
    found = [score for run in runs if (score := (run["secondary"] or {}).get(split))]
    if not found:
        return None, []
    shown = found[0]["name"].replace("_", " ")
    if len(found) < len(runs):
        return None, [f"{len(runs) - len(found)} of {len(runs)} runs have no {split} {shown}: none is shown"]
    kinds = {(score["name"], score["unit"], score["higher_is_better"], score["n"]) for score in found}
    if len(kinds) > 1:
        kept = " and ".join(f"{name} of {n} items" for name, _, _, n in sorted(kinds))
        return None, [f"its runs differ in their secondary outcome on {split}, and none is shown: {kept}"]
    return _scores(runs, split, found, shown)


def _scores(
    runs: list[dict[str, Any]], split: str, found: list[dict[str, Any]], shown: str
) -> tuple[Secondary, list[str]]:
    """The outcome of runs that all have it; by item only where every run has the same items."""
    first, run_values = found[0], [score["value"] for score in found]
    read = [_items(run, split, score) for run, score in zip(runs, found, strict=True)]
    values, has = np.array(run_values, dtype=np.float32)[:, None], b""
    whole = [items for items in read if not isinstance(items, str)]
    if len(whole) == len(read) and len({mask for _, mask in whole}) == 1:
        values, has = np.stack([items for items, _ in whole]), whole[0][1]
    data = (split, first["name"], first["n"], has, runs[0]["protocol"], runs[0]["fingerprint"])
    seeds = [run["seed"] for run in runs]
    facts = (first["name"], first["unit"], first["higher_is_better"])
    reasons = sorted({items for items in read if isinstance(items, str) and items})
    return Secondary(*facts, seeds, run_values, values, data), [
        f"items not used for {shown}: {reason}" for reason in reasons
    ]


def _items(run: dict[str, Any], split: str, score: dict[str, Any]) -> tuple[Items, bytes] | str:
    """The values of a run's items that have one, and which they are where some have none; else why not, or nothing.

    A split of several sets has the mean of theirs, which is none over its items.
    """
    if "sets" in score or not isinstance(run["folder"], Path):
        return ""
    try:
        columns = stored_columns(run["folder"], split, COLUMNS[score["name"]])
    except UserError as error:
        return str(error).splitlines()[0]
    if columns is None:
        return ""
    known = ~np.isnan(columns[0])
    values = _by_item(*(column[known] for column in columns))
    if known.sum() != score["n"] or abs(values.mean() - score["value"]) > TOLERANCE:
        return f"the predictions of {run['run_id']} don't give its {split} value"
    return values.astype(np.float32), b"" if known.all() else np.packbits(known).tobytes()


def _by_item(numbers: Values, sizes: Values | None = None) -> Values:
    """Values whose mean is that of the numbers, or of nats and bytes the bits per byte in their linear form."""
    if sizes is None:
        return numbers
    bits = numbers / math.log(2)
    ratio = bits.sum() / sizes.sum()
    return np.asarray(ratio + (bits - ratio * sizes) / sizes.mean())
