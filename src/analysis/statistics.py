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
CHUNK = 500  # permutations at a time, to bound memory


@dataclass(frozen=True)
class PairedTest:
    """A difference of two means (first minus second) with its 95 % interval and two-sided p-value.

    `over` says what was taken as drawn at random, and so what the conclusion generalises to.
    """

    difference: float
    low: float
    high: float
    p_value: float
    over: str


@dataclass(frozen=True)
class SeedError:
    """How far a run's mean lies from what its method and its seed explain: a variance, and its degrees of freedom."""

    variance: float
    freedom: int


def seed_error(means: Scores) -> SeedError:
    """The error over seeds that methods have in common: the interaction's mean square in the table of runs' means.

    Args:
        means: (methods, seeds), at least 2 of each; the same seeds for all.
    """
    methods, seeds = means.shape
    residual = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0, keepdims=True) + means.mean()
    freedom = (methods - 1) * (seeds - 1)
    return SeedError(float(np.square(residual).sum() / freedom), freedom)


def bootstrap_intervals(
    cells: Sequence[Scores], generator: np.random.Generator, *, replicates: int = 1000, level: float = 0.95
) -> NDArray[np.float64]:
    """Percentile intervals of the cells' means, with seeds and items drawn again with replacement.

    The items drawn are the same for all seeds of a cell, as they are in truth, and for all cells with as many items.

    Args:
        cells: an array (seeds, items) each; one item stands for runs of which only the mean is known.

    Returns:
        (cells, 2): the lower and upper end.

    Raises:
        ValueError: a score is NaN, or a cell is empty.
    """
    means = np.empty((len(cells), replicates))
    for items in {_checked(cell).shape[1] for cell in cells}:
        own = [index for index, cell in enumerate(cells) if cell.shape[1] == items]
        weights = generator.multinomial(items, np.full(items, 1 / items), size=replicates).astype(np.float32) / items
        for index in own:
            runs = weights @ cells[index].T.astype(np.float32)  # (replicates, seeds): each run on the drawn items
            drawn = generator.integers(runs.shape[1], size=runs.shape)
            means[index] = np.take_along_axis(runs, drawn, axis=1).mean(axis=1)
    tail = 50 * (1 - level)
    return np.percentile(means, [tail, 100 - tail], axis=1).T


def paired_test(
    first: Scores, second: Scores, generator: np.random.Generator, error: SeedError | None = None
) -> PairedTest | None:
    """Compare two methods on the same seeds and items.

    With several seeds and items by `seeds_and_items_test`, with one seed by a permutation over its items, without items
    by a t-test over seeds; None where there is but one number of each.

    Args:
        first, second: (seeds, items), the same seeds and items in the same order.
        error: over seeds, from more methods than these two; by default from these two alone.

    Raises:
        ValueError: the shapes differ, or a score is NaN.
    """
    if first.shape != second.shape:
        raise ValueError(f"Scores of shapes {first.shape} and {second.shape} aren't of the same seeds and items.")
    differences = _checked(first).astype(np.float64) - _checked(second)
    seeds, items = differences.shape
    if seeds > 1 and items > 1:
        return seeds_and_items_test(differences, error)
    if items > 1:
        return _items_test(differences[0], generator)
    return _t_test(differences[:, 0], error) if seeds > 1 else None


def seeds_and_items_test(differences: Scores, error: SeedError | None = None) -> PairedTest:
    """Test whether a mean difference is 0 where both seeds and items are a sample.

    The two-way random effects test of multi-reader studies (Dorfman, Berbaum and Metz 1992) with the degrees of freedom
    of Hillis (2007): with S seeds, I items and mean squares MS of the table of differences,

        variance = [MS_seeds + max(MS_items - MS_residual, 0)] / (S I)
        df = df_seeds ([MS_seeds + max(MS_items - MS_residual, 0)] / MS_seeds)^2

    MS_seeds is no less than MS_residual, which it contains: of three seeds it is now and then far too small by chance,
    and the test would be sure of what is nothing. df_seeds is S - 1, or that of `error`, which MS_seeds is taken from.

    Args:
        differences: (seeds, items), at least 2 of each.
        error: over seeds, from more methods than two.
    """
    seeds, items = differences.shape
    mean, by_seed, by_item = differences.mean(), differences.mean(axis=1), differences.mean(axis=0)
    residual = differences - by_seed[:, None] - by_item[None, :] + mean
    error = error or SeedError(float(np.square(by_seed - mean).sum() / (seeds - 1)) / 2, seeds - 1)
    ms_items = seeds * np.square(by_item - mean).sum() / (items - 1)
    ms_residual = np.square(residual).sum() / ((seeds - 1) * (items - 1))
    ms_seeds = max(2 * items * error.variance, ms_residual)  # 2: of a difference of two runs
    total = ms_seeds + max(ms_items - ms_residual, 0.0)
    freedom = error.freedom * (total / ms_seeds) ** 2 if ms_seeds > 0 else np.inf
    return _by_t(float(mean), float(np.sqrt(total / (seeds * items))), freedom, SEEDS_AND_ITEMS)


def sign_flip_test(differences: Scores, generator: np.random.Generator, *, permutations: int = 9999) -> float:
    """Two-sided p-value of a mean difference, by exchanging the two methods at random within each pair.

    Args:
        differences: (pairs,).
    """
    nonzero = differences[differences != 0]
    observed, reached = abs(nonzero.sum()) - 1e-9, 0
    for start in range(0, permutations, CHUNK):
        size = (min(CHUNK, permutations - start), len(nonzero))
        signs = generator.integers(0, 2, size=size, dtype=np.int8) * 2.0 - 1.0
        reached += int((np.abs(signs @ nonzero) >= observed).sum())
    return (reached + 1) / (permutations + 1)


def _items_test(differences: Scores, generator: np.random.Generator) -> PairedTest:
    spread = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    found = _by_t(float(differences.mean()), spread, len(differences) - 1, ITEMS)
    return PairedTest(found.difference, found.low, found.high, sign_flip_test(differences, generator), ITEMS)


def _t_test(differences: Scores, error: SeedError | None) -> PairedTest:
    error = error or SeedError(float(differences.var(ddof=1)) / 2, len(differences) - 1)
    spread = float(np.sqrt(2 * error.variance / len(differences)))
    return _by_t(float(differences.mean()), spread, error.freedom, SEEDS)


def _by_t(mean: float, spread: float, freedom: float, over: str) -> PairedTest:
    """The t-test of a mean whose standard error is `spread`."""
    if spread == 0:
        return PairedTest(mean, mean, mean, 1.0 if mean == 0 else 0.0, over)
    margin = float(stats.t.ppf(0.975, freedom)) * spread
    p_value = float(2 * stats.t.sf(abs(mean) / spread, freedom))
    return PairedTest(mean, mean - margin, mean + margin, p_value, over)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having made several tests (Holm 1979), so that one false rejection in all stays at 5 %.

    The i-th smallest of m is multiplied by m - i + 1, and none becomes smaller than the one before it.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda own: p_values[own])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = largest
    return adjusted


def front(
    costs: Sequence[float], scores: Sequence[float], p_value: Callable[[int, int], float], *, level: float = 0.05
) -> list[bool]:
    """Say which points are on the Pareto front as far as noise lets one tell.

    A point is off it only where the best of those that cost no more is significantly better, by tests corrected for
    their number (Holm). Two that can't be told apart are both on it, also where one of them costs more.

    Args:
        scores: higher is better.
        p_value: tests two points, given by their places.
    """
    rivals = [max((j for j in range(len(costs)) if costs[j] <= cost), key=lambda j: scores[j]) for cost in costs]
    tested = [point for point, rival in enumerate(rivals) if scores[rival] > scores[point]]
    adjusted = holm([p_value(rivals[point], point) for point in tested])
    dominated = {point for point, p in zip(tested, adjusted, strict=True) if p < level}
    return [point not in dominated for point in range(len(costs))]


def _checked(scores: Scores) -> Scores:
    if scores.size == 0 or np.isnan(scores).any():
        raise ValueError(f"Scores of shape {scores.shape} are empty or hold a NaN; leave such runs out and say so.")
    return scores
