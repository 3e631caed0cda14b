"""Target sets: which matrices to adapt, also at equal parameters, as in Table 5 of LoRA (Hu et al. 2021)."""

from collections.abc import Iterator

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.statistics import PairedTest, holm
from src.analysis.tables.equal_parameters import EQUAL_UP_TO
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

METHOD = ["task", "model", "adapter", "differs"]
BASELINE = "qv"


def target_sets(runs: pd.DataFrame, comparison: Comparison) -> Table | None:
    """Every target set of the methods that have several, each compared with a baseline of as many parameters.

    The baseline is the cell on query and value with equally many parameters (to 10 %), where there are several the best
    on validation, and where there is none the first of its method. p-values are Holm's for the whole table.
    """
    groups = comparison.cells.groupby(METHOD)["target"]
    compared = comparison.where(groups.transform("nunique").gt(1) & comparison.cells["target"].notna())
    if compared.cells.empty:
        return None
    baselines = dict(_baselines(compared.cells))
    tests = {index: compared.test(index, baseline) for index, baseline in baselines.items() if index != baseline}
    return _table(compared, baselines, tests)


def _baselines(cells: pd.DataFrame) -> Iterator[tuple[int, int]]:
    """For each row with a score the row it is compared with, itself where it is the baseline."""
    scored = cells[cells["mean"].notna()]
    for _, group in scored.groupby(METHOD):
        for index, size in group["body_trained"].items():
            # Equal both ways: the baseline may be the smaller or the larger of the two.
            ratio = group["body_trained"] / size
            equal = group[ratio.between(1 / EQUAL_UP_TO, EQUAL_UP_TO)]
            preferred = equal[equal["target"] == BASELINE]
            sign = 1 if group["higher_is_better"].iloc[0] else -1
            # By validation: on test, the choice of the baseline would favor its score.
            best = (sign * preferred["validation_mean"]).idxmax() if len(preferred) else equal.index[0]
            yield int(str(index)), int(best)


def _table(compared: Comparison, baselines: dict[int, int], tests: dict[int, PairedTest | None]) -> Table:
    """The table of the compared rows; baselines and tests are by row index."""
    cells = compared.cells
    tested = {index: test for index, test in tests.items() if test is not None}
    adjusted = dict(zip(tested, holm([test.p_value for test in tested.values()]), strict=True))
    differences = {index: difference(test, unit_of(cells.loc[index])) for index, test in tests.items()}
    columns = cell_columns(cells) | {"trainable params (w/o head)": [whole(size) for size in cells["body_trained"]]}
    columns |= dict([main_score_column(cells)]) | intervals(cells) | {"n": [str(n) for n in cells["n"]]}
    columns["compared with"] = [_name(cells, index, baselines.get(index)) for index in cells.index]
    columns["difference (95 %)"] = [differences.get(index, "-") for index in cells.index]
    columns["p (Holm)"] = [p_value(adjusted.get(index)) for index in cells.index]
    text = frame(columns)
    values = cells.assign(
        compared_with=[baselines.get(index) for index in cells.index],
        difference=[tested[index].difference if index in tested else None for index in cells.index],
        p_holm=[adjusted.get(index) for index in cells.index],
    )
    return Table(text, values, legend(cells, text))


def _name(cells: pd.DataFrame, index: int, baseline: int | None) -> str:
    """What a row is compared with, in words."""
    if baseline is None:
        return "-"
    if baseline == index:
        return "(baseline)"
    return f"{cells.loc[baseline, 'target']}, rank {cells.loc[baseline, 'rank']}"
