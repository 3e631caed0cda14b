"""Target sets: which matrices to adapt, also at equal parameters, as in Table 5 of LoRA (Hu et al. 2021)."""

from collections.abc import Iterator

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.statistics import PairedTest, holm
from src.analysis.tables.equal_parameters import EQUAL_UP_TO
from src.analysis.texts import difference, frame, intervals, legend, named, p_value, score, unit_of, whole

METHOD = ["task", "model", "adapter", "differs"]
BASELINE = "qv"


def target_sets(runs: pd.DataFrame, found: Comparison) -> Table | None:
    """Every target set of the methods that have several, each compared with a baseline of as many parameters.

    The baseline is the cell on query and value with equally many parameters (to 10 %), where there are several the best
    on validation, and where there is none the first of its method. p-values are Holm's for the whole table.
    """
    groups = found.cells.groupby(METHOD)["target"]
    own = found.where(groups.transform("nunique").gt(1) & found.cells["target"].notna())
    if own.cells.empty:
        return None
    baselines = dict(_baselines(own.cells))
    tests = {place: own.test(place, baseline) for place, baseline in baselines.items() if place != baseline}
    return _table(own, baselines, tests)


def _baselines(cells: pd.DataFrame) -> Iterator[tuple[int, int]]:
    """For each row with a score the row it is compared with, itself where it is the baseline."""
    scored = cells[cells["mean"].notna()]
    for _, group in scored.groupby(METHOD):
        for place, size in group["body_trained"].items():
            ratio = group["body_trained"] / size
            equal = group[ratio.between(1 / EQUAL_UP_TO, EQUAL_UP_TO)]
            preferred = equal[equal["target"] == BASELINE]
            sign = 1 if group["higher_is_better"].iloc[0] else -1
            best = (sign * preferred["validation_mean"]).idxmax() if len(preferred) else equal.index[0]
            yield int(str(place)), int(best)


def _table(own: Comparison, baselines: dict[int, int], tests: dict[int, PairedTest | None]) -> Table:
    cells = own.cells
    known = {place: test for place, test in tests.items() if test is not None}
    adjusted = dict(zip(known, holm([test.p_value for test in known.values()]), strict=True))
    differences = {place: difference(test, unit_of(cells.loc[place])) for place, test in tests.items()}
    columns = named(cells) | {"trained, no head": [whole(size) for size in cells["body_trained"]]}
    columns |= dict([score(cells)]) | intervals(cells) | {"n": [str(n) for n in cells["n"]]}
    columns["compared with"] = [_name(cells, place, baselines.get(place)) for place in cells.index]
    columns["difference (95 %)"] = [differences.get(place, "-") for place in cells.index]
    columns["p (Holm)"] = [p_value(adjusted.get(place)) for place in cells.index]
    text = frame(columns)
    values = cells.assign(
        compared_with=[baselines.get(place) for place in cells.index],
        difference=[known[place].difference if place in known else None for place in cells.index],
        p_holm=[adjusted.get(place) for place in cells.index],
    )
    return Table(text, values, legend(cells, text))


def _name(cells: pd.DataFrame, place: int, baseline: int | None) -> str:
    if baseline is None:
        return "-"
    if baseline == place:
        return "(baseline)"
    return f"{cells.loc[baseline, 'target']}, rank {cells.loc[baseline, 'rank']}"
