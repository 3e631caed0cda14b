"""Intervals and tests over stored scores: pure functions of arrays, with the random generator passed in.

Scores of a cell are an array (seeds, items): a number an item for each run. Two methods are compared on the same seeds
and items. `results/READING.md` says in plain words what each of these does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.floating[Any]]
SEEDS_AND_ITEMS, SEEDS, ITEMS = "seeds and items", "seeds only", "items only"
ROUNDING = 1e-6  # of a run's score, which is kept in single precision
CHUNK = 500  # permutations at a time, to bound memory


@dataclass(frozen=True)
class PairedTest:
    """A difference of two means (first minus second) with its 95 % interval and two-sided p-value.

    `over` says what was taken as drawn at random, and so what the conclusion generalizes to.
    """

    difference: float
    low: float
    high: float
    p_value: float
    over: str


@dataclass(frozen=True)
class SeedVariance:
    """How far a run's mean lies from what method and seed explain: a variance, and its degrees of freedom (df)."""

    variance: float
    df: int


def pooled_seed_variance(means: Scores) -> SeedVariance:
    """The residual variance of runs' means that methods have in common.

    It is the interaction's mean square in a two-way analysis of variance without replication, methods by seeds.

    Args:
        means: (methods, seeds), at least 2 of each; the same seeds for all.
    """
    methods, seeds = means.shape
    residual = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0, keepdims=True) + means.mean()
    df = (methods - 1) * (seeds - 1)  # what is left after a mean for each method and each seed
    return SeedVariance(float(np.square(residual).sum() / df), df)


def bootstrap_intervals(
    cells: Sequence[Scores], generator: np.random.Generator, *, replicates: int = 1000, level: float = 0.95
) -> NDArray[np.float64]:
    """Percentile intervals of the cells' means, with seeds and items drawn again with replacement.

    The pigeonhole bootstrap (Owen 2007): seeds and items are drawn independently of each other. The items drawn are the
    same for all seeds of a cell, as they are in truth, and for all cells with as many items.

    Args:
        cells: an array (seeds, items) each; one item stands for runs of which only the mean is stored.

    Returns:
        (cells, 2): the lower and upper end.

    Raises:
        ValueError: a score is NaN, or a cell is empty.
    """
    means = np.empty((len(cells), replicates))
    for items in {_checked(cell).shape[1] for cell in cells}:
        same_size = [index for index, cell in enumerate(cells) if cell.shape[1] == items]
        # How often each item is drawn, as a share: a matrix product then gives the means of all replicates at once.
        weights = generator.multinomial(items, np.full(items, 1 / items), size=replicates).astype(np.float32) / items
        for index in same_size:
            runs = weights @ cells[index].T.astype(np.float32)  # (replicates, seeds): each run on the drawn items
            drawn = generator.integers(runs.shape[1], size=runs.shape)
            means[index] = np.take_along_axis(runs, drawn, axis=1).mean(axis=1)
    tail = 50 * (1 - level)
    return np.percentile(means, [tail, 100 - tail], axis=1).T


def paired_test(
    first: Scores, second: Scores, generator: np.random.Generator, seed_variance: SeedVariance | None = None
) -> PairedTest | None:
    """Compare two methods on the same seeds and items.

    With several seeds and items by `seeds_and_items_test`, with one seed by a permutation over its items, without items
    by a t-test over seeds; None where there is but one number of each, or seeds without items differ all by the same.

    Args:
        first, second: (seeds, items), the same seeds and items in the same order.
        seed_variance: pooled over more methods than these two; by default estimated from these two alone.

    Raises:
        ValueError: the shapes differ, or a score is NaN.
    """
    if first.shape != second.shape:
        raise ValueError(f"Scores of shapes {first.shape} and {second.shape} aren't of the same seeds and items.")
    differences = _checked(first).astype(np.float64) - _checked(second)
    seeds, items = differences.shape
    if seeds > 1 and items > 1:
        return seeds_and_items_test(differences, seed_variance)
    if items > 1:
        return _items_test(differences[0], generator)
    return _t_test(differences[:, 0], seed_variance) if seeds > 1 else None


def seeds_and_items_test(differences: Scores, seed_variance: SeedVariance | None = None) -> PairedTest:
    """Test whether a mean difference is 0 where both seeds and items are a sample.

    The two-way random effects test of multi-reader studies (Dorfman, Berbaum and Metz 1992) with the degrees of freedom
    of Hillis (2007): with S seeds, I items and mean squares MS of the table of differences,

        variance = [MS_seeds + max(MS_items - MS_residual, 0)] / (S I)
        df = df_seeds ([MS_seeds + max(MS_items - MS_residual, 0)] / MS_seeds)^2

    MS_seeds is taken as no less than MS_residual, which its expectation contains: with three seeds it is now and then
    far too small by chance, and the test would be sure of a difference that isn't there. df_seeds is S - 1, or the df
    of `seed_variance`, from which MS_seeds then follows.

    Args:
        differences: (seeds, items), at least 2 of each.
        seed_variance: pooled over more methods than two.
    """
    seeds, items = differences.shape
    mean, by_seed, by_item = differences.mean(), differences.mean(axis=1), differences.mean(axis=0)
    residual = differences - by_seed[:, None] - by_item[None, :] + mean
    seed_variance = seed_variance or SeedVariance(float(np.square(by_seed - mean).sum() / (seeds - 1)) / 2, seeds - 1)
    ms_items = seeds * np.square(by_item - mean).sum() / (items - 1)
    ms_residual = np.square(residual).sum() / ((seeds - 1) * (items - 1))
    ms_seeds = max(2 * items * seed_variance.variance, ms_residual)  # 2: of a difference of two runs
    # A negative estimate of the items' variance component counts as none.
    total = ms_seeds + max(ms_items - ms_residual, 0.0)
    df = seed_variance.df * (total / ms_seeds) ** 2 if ms_seeds > 0 else np.inf
    return _by_t(float(mean), float(np.sqrt(total / (seeds * items))), df, SEEDS_AND_ITEMS)


def sign_flip_test(differences: Scores, generator: np.random.Generator, *, permutations: int = 9999) -> float:
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


def _items_test(differences: Scores, generator: np.random.Generator) -> PairedTest:
    """The test of one seed, (items,): the interval by t, the p-value by permutation."""
    standard_error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    by_t = _by_t(float(differences.mean()), standard_error, len(differences) - 1, ITEMS)
    return PairedTest(by_t.difference, by_t.low, by_t.high, sign_flip_test(differences, generator), ITEMS)


def _t_test(differences: Scores, seed_variance: SeedVariance | None) -> PairedTest | None:
    """The paired t-test over seeds, (seeds,); None where they all differ by the same, which says nothing of noise.

    Scores of few items, which take few values, do so now and then: t would be infinite, and the difference certain.
    """
    spread = np.ptp(differences) if seed_variance is None else np.sqrt(seed_variance.variance)
    if spread < ROUNDING and differences.mean() != 0:
        return None
    seed_variance = seed_variance or SeedVariance(float(differences.var(ddof=1)) / 2, len(differences) - 1)
    # The difference of two runs has twice the variance of one.
    standard_error = float(np.sqrt(2 * seed_variance.variance / len(differences)))
    return _by_t(float(differences.mean()), standard_error, seed_variance.df, SEEDS)


def _by_t(mean: float, standard_error: float, df: float, over: str) -> PairedTest:
    """The two-sided t-test of a mean with this standard error, and the mean's 95 % interval."""
    if standard_error == 0:  # t isn't defined: all differences are equal, and the mean is exact
        return PairedTest(mean, mean, mean, 1.0 if mean == 0 else 0.0, over)
    margin = float(stats.t.ppf(0.975, df)) * standard_error
    p_value = float(2 * stats.t.sf(abs(mean) / standard_error, df))
    return PairedTest(mean, mean - margin, mean + margin, p_value, over)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having made several tests (Holm 1979), so that one false rejection in all stays at 5 %.

    The i-th smallest of m is multiplied by m - i + 1, and none becomes smaller than the one before it.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for position, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - position)))
        adjusted[index] = largest
    return adjusted


def pareto_front(
    costs: Sequence[float], scores: Sequence[float], p_value: Callable[[int, int], float], *, level: float = 0.05
) -> list[bool]:
    """Say which points are on the Pareto front as far as noise lets one tell.

    A point is off it only where the best of those that cost no more is significantly better, by tests corrected for
    their number (Holm). Two that can't be told apart are both on it, also where one of them costs more.

    Args:
        scores: higher is better.
        p_value: the p-value of the difference between two points, which are named by their positions.
    """
    # Only the best rival is tested: one test a point keeps the correction for their number mild.
    rivals = [max((j for j in range(len(costs)) if costs[j] <= cost), key=lambda j: scores[j]) for cost in costs]
    tested = [point for point, rival in enumerate(rivals) if scores[rival] > scores[point]]
    adjusted = holm([p_value(rivals[point], point) for point in tested])
    dominated = {point for point, p in zip(tested, adjusted, strict=True) if p < level}
    return [point not in dominated for point in range(len(costs))]


def _checked(scores: Scores) -> Scores:
    """The scores as they are; a ValueError where they are empty or hold a NaN, which would spread silently."""
    if scores.size == 0 or np.isnan(scores).any():
        raise ValueError(f"Scores of shape {scores.shape} are empty or hold a NaN; leave such runs out and say so.")
    return scores
