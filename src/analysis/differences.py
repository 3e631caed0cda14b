"""Differences between two cells in words and units, and those of all cells to one of them."""

import math
from dataclasses import dataclass

import pandas as pd

from src.analysis.comparison import SEEDS_FOR_A_VERDICT, Comparison
from src.analysis.statistics import LEVEL, PairedTest, holm
from src.analysis.texts import is_missing, p_value, unit_of
from src.errors import UserError

BETTER, WORSE, OPEN = "better", "worse", "can't be told apart"
USUAL = "lora"  # the method that others are measured against
COLUMNS = ["cell", "difference", "low", "high", "p_value", "p_holm", "over", "seeds", "verdict", "why_not"]


@dataclass(frozen=True)
class Difference:
    """The paired test of two cells: `first` minus `second`, which prints itself in words.

    `difference` and the ends of its 95 % interval, `low` and `high`, are in the scores' `unit`; where that is "share",
    0.01 is a point. `p_value` is two-sided and not corrected; `over` says what was taken as drawn at random. `score`
    names the split and the metric, `seeds` is the smaller number of seeds of the two.
    """

    first: str
    second: str
    score: str
    unit: str
    higher_is_better: bool
    seeds: int
    difference: float
    low: float
    high: float
    p_value: float
    over: str

    @property
    def verdict(self) -> str:
        """Whether the first is better or worse than the second, or they can't be told apart (5 %, three seeds)."""
        return verdict_of(self.difference, self.p_value, self.seeds, higher_is_better=self.higher_is_better)

    def __str__(self) -> str:
        middle, low, high = (signed(value, self.unit) for value in (self.difference, self.low, self.high))
        interval = "no interval" if math.isnan(self.low) else f"95 % interval {low} to {high}"
        few = f" with fewer than {SEEDS_FOR_A_VERDICT} seeds" if self.seeds < SEEDS_FOR_A_VERDICT else ""
        p = f"p {p_value(self.p_value)}" if self.p_value < 0.001 else f"p = {p_value(self.p_value)}"
        # Of many pairs some differ by chance: tables and figures correct for it, a pair that one asks for can't.
        relation = f"{self.first} is {self.verdict}, tested alone" if self.verdict != OPEN else f"they {OPEN}{few}"
        return (
            f"{self.first} minus {self.second}: {middle} {unit_in_words(self.unit)} of {self.score} "
            f"({interval}), {p} over {self.over}: {relation}"
        )

    __repr__ = __str__


def signed(value: float, unit: str) -> str:
    """A difference of scores with its sign, shares in points."""
    return f"{100 * value:+.1f}" if unit == "share" else f"{value:+.3f}"


def unit_in_words(unit: str) -> str:
    """What a difference is counted in: points (of a percentage) for shares."""
    return "points" if unit == "share" else unit


def verdict_of(difference: float, p: float, seeds: int, *, higher_is_better: bool) -> str:
    """What a test says of its first cell; a NaN or fewer than three seeds leave it open."""
    if not p < LEVEL or seeds < SEEDS_FOR_A_VERDICT or difference == 0:
        return OPEN
    return BETTER if (difference > 0) == higher_is_better else WORSE


def score_in_words(cell: pd.Series) -> str:
    """The split and the metric of the score that counts in a cell, as in "test accuracy"."""
    return f"{cell['split']} {cell['metric'] if cell['split'] == 'test' else cell['validation_metric']}"


def difference_of(comparison: Comparison, names: list[str], first: int, second: int) -> Difference:
    """The paired test of two cells, given by their indices.

    Raises:
        UserError: they can't be tested.
    """
    test = None if first == second else comparison.test(first, second)
    if test is None:
        why = _why_not(comparison.cells, first, second)
        raise UserError(f"{names[first]} and {names[second]} can't be compared: {why}.\nName two other cells.")
    cell = comparison.cells.iloc[first]
    return Difference(
        names[first],
        names[second],
        score_in_words(cell),
        unit_of(cell),
        bool(cell["higher_is_better"]),
        int(comparison.cells["n"].iloc[[first, second]].min()),
        test.difference,
        test.low,
        test.high,
        test.p_value,
        test.over,
    )


def _why_not(cells: pd.DataFrame, first: int, second: int) -> str:
    """Why two cells have no test."""
    pair = cells.iloc[[first, second]]
    if first == second:
        return "they are the same cell"
    if (pair["n"] == 0).any():
        return "no run of one of them has finished"
    differing = [key for key in ("task", "model", "split") if pair[key].nunique() > 1]
    if differing:
        return f"they differ in their {' and '.join(differing)}"
    return "they share no seed or aren't scored on the same items, or have one number each"


def differences_to(comparison: Comparison, names: list[str], baseline: int) -> pd.DataFrame:
    """A row for each other cell of the baseline's task and model, the best first: its score minus the baseline's.

    `p_holm` is corrected (Holm) for all tests of the table, and decides over `verdict`; `why_not` says why a cell has
    no test, which then is at the end. Differences are in the scores' unit, of which a share's 0.01 is a point.

    Returns:
        A frame with the columns `COLUMNS`, numbered by the cells' indices.
    """
    cells = comparison.cells
    same = (cells["task"] == cells["task"][baseline]) & (cells["model"] == cells["model"][baseline])
    others = [int(index) for index in cells.index[same] if index != baseline]
    tests = {index: test for index in others if (test := comparison.test(index, baseline))}
    p_holm = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))
    rows = [_row(comparison, names, index, baseline, tests.get(index), p_holm.get(index, math.nan)) for index in others]
    frame = pd.DataFrame(rows, columns=COLUMNS, index=others)
    lower_first = not higher_is_better(cells, baseline)
    return frame.sort_values("difference", ascending=lower_first, kind="stable", na_position="last")


def higher_is_better(cells: pd.DataFrame, index: int) -> bool:
    """Say whether a larger score of a cell is the better one; so it is where nothing was scored."""
    value = cells["higher_is_better"][index]
    return True if is_missing(value) else bool(value)


def _row(
    comparison: Comparison, names: list[str], index: int, baseline: int, test: PairedTest | None, p_holm: float
) -> dict[str, object]:
    """A cell's row of the differences to the baseline."""
    cells = comparison.cells
    if test is None:
        return {"cell": names[index], "verdict": OPEN, "why_not": _why_not(cells, index, baseline)}
    seeds = int(cells["n"].iloc[[index, baseline]].min())
    verdict = verdict_of(test.difference, p_holm, seeds, higher_is_better=higher_is_better(cells, baseline))
    numbers = {key: getattr(test, key) for key in ("difference", "low", "high", "p_value", "over")}
    return {"cell": names[index], **numbers, "p_holm": p_holm, "seeds": seeds, "verdict": verdict, "why_not": ""}


def usual_baseline(cells: pd.DataFrame) -> int:
    """The cell to measure others against: LoRA at its most common rank, else the first one with the most seeds.

    Of ranks that are equally common it is the middle one, of several cells at it the first one with the most seeds.

    Raises:
        UserError: no cell has a score.
    """
    scored = cells[cells["mean"].notna()]
    if scored.empty:
        raise UserError(
            "No run of these has a score.\nWait for one to finish, or see why they didn't: python -m src.tables"
        )
    usual = scored[(scored["adapter"] == USUAL) & scored["rank"].notna()]
    if not usual.empty:
        counts = usual.groupby("rank")["n"].sum()
        most_common = sorted(counts.index[counts == counts.max()])
        scored = usual[usual["rank"] == most_common[(len(most_common) - 1) // 2]]
    return int(scored["n"].idxmax())
