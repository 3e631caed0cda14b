"""Estimates, tests and sets of the best: pure functions of numbers and arrays, with the random generator passed in.

What is drawn at random, seeds, items or both, and how much noise each has, is `error_model.py`'s. `results/READING.md`
says in plain words what each of these does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.floating[Any]]
SEEDS_AND_ITEMS, SEEDS, ITEMS = "seeds and items", "seeds only", "items only"
LEVEL = 0.05
ROUNDING = 1e-6  # of a run's score, which is kept in single precision
Differences = Callable[[int, int], "Estimate | None"]  # of two entries, named by their positions
CHUNK = 500  # permutations at a time, to bound memory
PERMUTATIONS = 9999


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means, its standard error and degrees of freedom (df), in the score's unit.

    `over` says what was taken as drawn at random, and so what the conclusion generalizes to.
    """

    value: float
    standard_error: float
    df: float
    over: str

    def interval(self, level: float = 1 - LEVEL) -> tuple[float, float]:
        """The ends of the t-interval, 95 % by default."""
        margin = self.standard_error * float(stats.t.ppf((1 + level) / 2, self.df)) if self.standard_error > 0 else 0.0
        return self.value - margin, self.value + margin

    def p_value(self, null: float = 0.0) -> float:
        """The two-sided p-value of the hypothesis that the true value is `null`."""
        if self.standard_error == 0:  # t isn't defined, and the value is exact
            return 1.0 if self.value == null else 0.0
        return float(2 * stats.t.sf(abs(self.value - null) / self.standard_error, self.df))


@dataclass(frozen=True)
class PairedTest:
    """A difference of two means (first minus second) with its 95 % interval and two-sided p-value.

    `over` is that of the estimate, from which all but a permutation's p-value follows.
    """

    difference: float
    low: float
    high: float
    p_value: float
    over: str
    estimate: Estimate

    @classmethod
    def of(cls, estimate: Estimate, p_value: float | None = None) -> "PairedTest":
        """The t-test of an estimate, or with a p-value of its own."""
        low, high = estimate.interval()
        p = estimate.p_value() if p_value is None else p_value
        return cls(estimate.value, low, high, p, estimate.over, estimate)


@dataclass(frozen=True)
class MeanSquares:
    """The mean squares of a table (seeds, items): of seeds, of items, and of what both leave."""

    seeds: float
    items: float
    residual: float


def two_way(table: Scores) -> MeanSquares:
    """The analysis of variance of a table (seeds, items) with one number a cell, at least two of each."""
    seeds, items = table.shape
    table = table.astype(np.float64)
    mean, by_seed, by_item = table.mean(), table.mean(axis=1), table.mean(axis=0)
    of_seeds = items * float(np.square(by_seed - mean).sum())
    of_items = seeds * float(np.square(by_item - mean).sum())
    rest = max(float(np.square(table - mean).sum()) - of_seeds - of_items, 0.0)
    return MeanSquares(of_seeds / (seeds - 1), of_items / (items - 1), rest / ((seeds - 1) * (items - 1)))


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """The degrees of freedom of a sum of variances, each with its own: (variance, df) (Satterthwaite 1946)."""
    total = sum(variance for variance, _ in parts)
    uncertain = sum(variance**2 / df for variance, df in parts if df < inf)
    return total**2 / uncertain if uncertain > 0 else inf


def mean_of(numbers: Scores, over: str) -> Estimate:
    """The mean of independent numbers, at least two."""
    standard_error = float(np.std(numbers, ddof=1) / np.sqrt(len(numbers)))
    return Estimate(float(np.mean(numbers)), standard_error, len(numbers) - 1, over)


def sign_flip_test(differences: Scores, generator: np.random.Generator, *, permutations: int = PERMUTATIONS) -> float:
    """Two-sided p-value of a mean difference, by exchanging the two methods at random within each pair (Fisher 1935).

    Args:
        differences: (pairs,).
    """
    nonzero = differences[differences != 0]  # a pair without a difference has none under either sign
    observed, reached = abs(nonzero.sum()) - 1e-9, 0  # rounding must not keep an equal sum from counting
    for start in range(0, permutations, CHUNK):
        size = (min(CHUNK, permutations - start), len(nonzero))
        signs = generator.integers(0, 2, size=size, dtype=np.int8) * 2.0 - 1.0
        reached += int((np.abs(signs @ nonzero) >= observed).sum())
    # The observed signs are one of the permutations, so that no p-value is 0 (Phipson and Smyth 2010).
    return (reached + 1) / (permutations + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having made several tests (Holm 1979), so that one false rejection in all stays at 5 %.

    Not by statsmodels' `multipletests`, which collects garbage at every call: the model's many would take seconds.
    """
    ordered = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values, dtype=np.float64)[ordered] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[ordered] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(p) for p in adjusted]


def best_set(signed_scores: Sequence[float], estimate: Differences) -> list[bool]:
    """Say which entries can't be told from the best, so that all that are equally good are in it with 95 %.

    An entry is out where another is better by more than chance makes the largest of so many equal entries better than
    the smallest (Tukey 1953, with the errors and degrees of freedom of each pair as in Games and Howell 1976).

    Args:
        signed_scores: higher is better.
        estimate: the difference of two entries, first minus second, in whatever direction; None where there is none.
    """
    return pareto_front([0.0] * len(signed_scores), signed_scores, estimate)


def pareto_front(costs: Sequence[float], signed_scores: Sequence[float], estimate: Differences) -> list[bool]:
    """Say which points are on the Pareto front as far as noise lets one tell.

    A point is off it only where one that costs no more is better beyond chance, as in `best_set`. Two that can't be
    told apart are both on it, also where one of them costs more.
    """
    # The best rivals first: mostly one test decides.
    order = sorted(range(len(costs)), key=lambda point: -signed_scores[point])
    usual = _usual_error(order, estimate)

    def is_beaten(point: int, rival: int) -> bool:
        if costs[rival] > costs[point] or signed_scores[rival] <= signed_scores[point]:
            return False
        difference = estimate(rival, point)
        if difference is None:
            return False
        limit = _range_limit(len(costs), _coarse(difference.df))
        return abs(difference.value) > limit * max(difference.standard_error, usual)

    return [not any(is_beaten(point, rival) for rival in order) for point in range(len(costs))]


def _usual_error(order: Sequence[int], estimate: Differences) -> float:
    """The median standard error of neighbors in an order: of many pairs some seem surer than they are by chance."""
    neighbors = [found for pair in pairwise(order) if (found := estimate(*pair)) is not None]
    return float(np.median([found.standard_error for found in neighbors])) if neighbors else 0.0


def _coarse(df: float) -> float:
    """Degrees of freedom rounded down to two digits, so that few limits have to be computed; infinite above 1,000."""
    return inf if df > 1000 else max(float(f"{df * 0.995:.2g}"), 1.0)


@lru_cache(maxsize=4096)
def _range_limit(entries: int, df: float) -> float:
    """How many standard errors of a difference the largest of equal entries exceeds the smallest by in 5 %."""
    return float(stats.studentized_range.ppf(1 - LEVEL, entries, df)) / sqrt(2)
