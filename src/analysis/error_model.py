"""How sure the means and differences of cells are: one error model for every interval, test and prediction.

A cell's score varies over its seeds and over its items. Over seeds it varies more than the noise of single answers
would make it: its overdispersion is how many times more. Three seeds say little of a cell's own, which is therefore
moderated by what comparable cells show, as limma does for genes (Smyth 2004, doi 10.2202/1544-6115.1027). A cell that
is noisier than they are beyond chance keeps its own, and from five seeds on every cell does. The error of a difference
is that of the very pair: what seeds and items leave of its differences, times the overdispersion of its two cells.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from scipy.optimize import brentq

from src.analysis.statistics import (
    ITEMS,
    ROUNDING,
    SEEDS,
    SEEDS_AND_ITEMS,
    Estimate,
    MeanSquares,
    PairedTest,
    Scores,
    holm,
    mean_of,
    satterthwaite,
    sign_flip_test,
    two_way,
)

# By the number of its seeds that others have too, how much these have to say of a cell's noise at most, in degrees of
# freedom; from five on it is its own. Four are between the two, so that another seed never makes intervals wider.
MODERATED_BY = {2: inf, 3: inf, 4: 3.0}
FEWEST_CELLS = 5  # with fewer, they say too little of each other
# A cell that is noisier than the others at this level keeps its noise, and after Holm it has no part in theirs.
OUTLYING = 0.05
PLAINLY_OUTLYING = 1e-3  # the level while it isn't known yet how much cells differ
ENDLESS = 1e9  # degrees of freedom, where scipy takes no infinity
ROUNDS, ROUNDS_BY_MEDIAN = 12, 3  # of finding such cells
SEED_OF_DRAWS = 0  # of permutations, so that the same runs give the same bytes
Variance = tuple[float, float]  # and its degrees of freedom


@dataclass(frozen=True)
class CellScores:
    """The scores of a cell's runs: (seeds, items), or (seeds, 1) where only the runs' mean scores are stored.

    `data` says what the scores are of; only cells with equal `data` can be compared, and item by item only those with
    equal `references`. `is_part` marks a smaller rank of another cell's training, which says nothing of its own on how
    noisy cells are.
    """

    seeds: list[int]
    values: NDArray[np.float32]
    data: Hashable
    references: str = ""
    is_part: bool = False

    @property
    def means(self) -> NDArray[np.float64]:
        """The runs' scores, (seeds,)."""
        return np.asarray(self.values.mean(axis=1, dtype=np.float64))

    @property
    def by_item(self) -> NDArray[np.float64]:
        """The items' mean scores, (items,)."""
        return np.asarray(self.values.mean(axis=0, dtype=np.float64))

    @property
    def items(self) -> tuple[int, str]:
        """What two cells must have in common to be compared item by item."""
        return self.values.shape[1], self.references

    @property
    def is_binary(self) -> bool:
        """Whether every item is right or wrong."""
        return bool(np.isin(self.values, (0.0, 1.0)).all())

    @property
    def is_table(self) -> bool:
        """Whether there are several seeds and several items."""
        return bool(min(self.values.shape) > 1)

    def of(self, seeds: Sequence[int]) -> NDArray[np.float64]:
        """The scores of some seeds, (seeds, items), in their order."""
        return self.values[[self.seeds.index(seed) for seed in seeds]].astype(np.float64)


@dataclass(frozen=True)
class SeedNoise:
    """A cell's noise: what seeds and items leave of its scores (a variance), and how many times that seeds vary."""

    residual: float
    overdispersion: float
    df: float

    def of_mean(self, seeds: int, items: int) -> Variance:
        """What seeds add to the variance of a mean over so many of them."""
        # The noise of answers is part of what seeds add, also where three of them happen to agree.
        return self.residual * max(self.overdispersion, 1.0) / (seeds * items), self.df


@dataclass(frozen=True)
class Components:
    """The variances that a difference of two cells is made of: a seed's, an item's, and of one answer of one seed."""

    seed: float
    item: float
    answer: float

    def standard_error(self, seeds: int, items: int) -> float:
        """That of the difference with so many seeds and items."""
        return float(np.sqrt(self.seed / seeds + self.item / items + self.answer / (seeds * items)))


class ErrorModel:
    """The error model of cells that are scored on the same data.

    Args:
        cells: of one `data`. Those without scores by item are compared by their runs' means alone.
    """

    def __init__(self, cells: Sequence[CellScores]) -> None:
        self.cells = list(cells)
        tables = [index for index, cell in enumerate(self.cells) if cell.is_table and not cell.is_part]
        most = Counter(self.cells[index].items for index in tables).most_common(1)
        pool = [index for index in tables if self.cells[index].items == most[0][0]]
        # Too few say too little of each other.
        self._pool = pool if len(pool) >= FEWEST_CELLS else []

    def test(self, first: int, second: int) -> PairedTest | None:
        """The test of `difference`: by t, and over the items of one seed by permutation."""
        estimate = self.difference(first, second)
        if estimate is None or estimate.over != ITEMS:
            return PairedTest.of(estimate) if estimate else None
        p_value = sign_flip_test(self._of_one_seed(first, second), np.random.default_rng(SEED_OF_DRAWS))
        return PairedTest.of(estimate, p_value)

    def difference(self, first: int, second: int) -> Estimate | None:
        """The first cell's mean minus the second's; None where nothing says how sure that is.

        Seeds that both have are paired; where the others make the difference surer, they are used too.
        """
        a, b = self.cells[first], self.cells[second]
        shared = sorted(set(a.seeds) & set(b.seeds))
        if a.items != b.items or a.items[0] == 1:
            return _difference_of_means(a, b, shared)
        if min(len(a.seeds), len(b.seeds)) == 1:
            return mean_of(self._of_one_seed(first, second), ITEMS) if shared else None
        possible = [self._paired(first, second, shared)] if len(shared) > 1 else []
        possible += [self._over_all_seeds(first, second, shared)] if set(a.seeds) != set(b.seeds) else []
        return min(possible, key=lambda estimate: estimate.standard_error)

    def _of_one_seed(self, first: int, second: int) -> NDArray[np.float64]:
        """The differences between the answers of the first seed that both cells have, (items,)."""
        a, b = self.cells[first], self.cells[second]
        seed = [min(set(a.seeds) & set(b.seeds))]
        return np.asarray((a.of(seed) - b.of(seed))[0])

    def mean(self, index: int) -> Estimate | None:
        """A cell's mean over seeds and items; None of a single number."""
        cell = self.cells[index]
        seeds, items = cell.values.shape
        if min(seeds, items) == 1:
            numbers, over = (cell.means, SEEDS) if items == 1 else (cell.values[0].astype(np.float64), ITEMS)
            return mean_of(numbers, over) if len(numbers) > 1 else None
        noise, (common, df) = self.noise[index], self.seed_effect
        of_seeds = [(common / seeds, df), noise.of_mean(seeds, items)]
        # Sixteen of sixteen right answers are no certainty: two of each are added (Agresti and Coull 1998).
        least = 2 * (items + 2) / (items + 4) ** 2 if cell.is_binary else 0.0
        return _over_seeds_and_items(cell.by_item, of_seeds, noise.residual / seeds, least)

    def components(self, first: int, second: int) -> Components | None:
        """The variances behind the difference of two cells; None where they don't share two seeds and their items."""
        a, b = self.cells[first], self.cells[second]
        shared = sorted(set(a.seeds) & set(b.seeds))
        if len(shared) < 2 or a.items != b.items or a.items[0] == 1:
            return None
        differences = a.of(shared) - b.of(shared)
        squares = two_way(differences)
        mean_square, _ = self._mean_square_of_seeds(first, second, squares, len(shared))
        seed = (mean_square - squares.residual) / differences.shape[1]
        return Components(seed, max(squares.items - squares.residual, 0.0) / len(shared), squares.residual)

    @cached_property
    def noise(self) -> list[SeedNoise]:
        """The noise of every cell; of one seed, or without items, there is none to be known."""
        cells = [self.cells[index] for index in self._pool]
        moderated = dict(zip(self._pool, _moderated(cells) if cells else [], strict=True))
        return [moderated.get(index) or _alone(cell) for index, cell in enumerate(self.cells)]

    @cached_property
    def seed_effect(self) -> Variance:
        """What a seed does to all cells alike, as it gives them the same batches, with its degrees of freedom.

        A few cells can't tell it from their own noise, which then contains it.
        """
        if not self._pool:
            return 0.0, 1.0
        by_seed: dict[int, list[float]] = defaultdict(list)
        for cell in (self.cells[index] for index in self._pool):
            for seed, deviation in zip(cell.seeds, cell.means - cell.means.mean(), strict=True):
                by_seed[seed].append(float(deviation))
        # Medians: a cell that is noisy by itself moves no other's interval. Theirs is pi / 2 of a mean's variance.
        known = [deviations for deviations in by_seed.values() if len(deviations) >= FEWEST_CELLS]
        if len(known) < 2:
            return 0.0, 1.0
        effects = [float(np.median(deviations)) for deviations in known]
        items = self.cells[self._pool[0]].items[0]
        own = np.median([self.noise[index].of_mean(1, items)[0] for index in self._pool])
        chance = np.pi / 2 * own * np.mean([1 / len(deviations) for deviations in known])
        return max(float(np.var(effects, ddof=1) - chance), 0.0), len(effects) - 1

    def _paired(self, first: int, second: int, shared: Sequence[int]) -> Estimate:
        """The difference over the seeds that both cells have."""
        differences = self.cells[first].of(shared) - self.cells[second].of(shared)
        seeds, items = differences.shape
        squares = two_way(differences)
        mean_square, df = self._mean_square_of_seeds(first, second, squares, seeds)
        of_seeds, left = (mean_square / (seeds * items), df), squares.residual / seeds
        return _over_seeds_and_items(differences.mean(axis=0), [of_seeds], left, self._least(first, second))

    def _mean_square_of_seeds(self, first: int, second: int, squares: MeanSquares, seeds: int) -> Variance:
        """How much the differences of two cells vary over so many seeds, times the number of items.

        It is no less than the noise of their answers, which is part of it: three seeds that happen to agree would else
        prove too much.
        """
        if not {first, second} <= set(self._pool):
            return max(squares.seeds, squares.residual), seeds - 1
        noises = [self.noise[index] for index in (first, second)]
        whole = sum(noise.residual for noise in noises)
        parts = [(noise.residual / whole * noise.overdispersion, noise.df) for noise in noises]
        most = sum(len(self.cells[index].seeds) - 1 for index in self._pool) * (1 - 1 / len(self._pool))
        overdispersion = max(sum(part for part, _ in parts), 1.0)
        return overdispersion * squares.residual, min(satterthwaite(parts), most)

    def _over_all_seeds(self, first: int, second: int, shared: Sequence[int]) -> Estimate:
        """The difference over all seeds of both cells, of which some or none are shared."""
        a, b = self.cells[first], self.cells[second]
        items, (n_a, n_b), noises = a.items[0], (len(a.seeds), len(b.seeds)), [self.noise[first], self.noise[second]]
        common, df = self.seed_effect
        # A seed's effect cancels where both cells have it, as far as their weights are equal.
        left = len(shared) * (1 / n_a - 1 / n_b) ** 2 + (n_a - len(shared)) / n_a**2 + (n_b - len(shared)) / n_b**2
        parts = [(common * left, df), noises[0].of_mean(n_a, items), noises[1].of_mean(n_b, items)]
        residual = noises[0].residual / n_a + noises[1].residual / n_b
        if len(shared) > 1:
            # What two runs of a seed have in common beside its effect counts twice as often as seeds are shared.
            squares, weight = two_way(a.of(shared) - b.of(shared)), len(shared) / (n_a * n_b)
            mean_square, _ = self._mean_square_of_seeds(first, second, squares, len(shared))
            both = max(sum(noise.residual * noise.overdispersion for noise in noises) - mean_square, 0.0)
            parts.append((-both * weight / items, inf))
            residual -= max(sum(noise.residual for noise in noises) - squares.residual, 0.0) * weight
        return _over_seeds_and_items(a.by_item - b.by_item, parts, residual, self._least(first, second))

    def _least(self, first: int, second: int) -> float:
        """The least variance of an item's difference: one of two more is taken for other (Agresti and Min 2005)."""
        a, b = self.cells[first], self.cells[second]
        return 1 / (a.items[0] + 2) if a.is_binary and b.is_binary else 0.0


def _over_seeds_and_items(by_item: Scores, of_seeds: Sequence[Variance], residual: float, least: float) -> Estimate:
    """The mean of numbers by item, (items,), where seeds and items are a sample.

    The two-way random effects analysis of multi-reader studies (Dorfman, Berbaum and Metz 1992) with the degrees of
    freedom of Hillis (2007), whose mean square over seeds comes in parts, each with its degrees of freedom.

    Args:
        of_seeds: what seeds add to the variance of the mean.
        residual: how much of the variance of `by_item` is that of single answers, which is part of the seeds'.
        least: what the variance of `by_item` is no less than.
    """
    items = len(by_item)
    seeds_variance = sum(variance for variance, _ in of_seeds)
    variance = max(max(float(np.var(by_item, ddof=1)), least) - residual, 0.0) / items
    total = seeds_variance + variance
    df = satterthwaite(of_seeds) * (total / seeds_variance) ** 2 if seeds_variance > 0 else items - 1
    return Estimate(float(by_item.mean()), float(np.sqrt(total)), df, SEEDS_AND_ITEMS)


def _difference_of_means(a: CellScores, b: CellScores, shared: list[int]) -> Estimate | None:
    """The difference over runs of which only the means are known: paired where seeds are shared, else as Welch has it.

    None where one of them is a single run, or all pairs differ by the same, which says nothing of noise: scores of few
    items, which take few values, do so now and then, and the difference would be certain.
    """
    if len(shared) > 1 and len(shared) >= max(len(a.seeds), len(b.seeds)) / 2:
        differences = a.of(shared).mean(axis=1) - b.of(shared).mean(axis=1)
        if np.ptp(differences) < ROUNDING and differences.mean() != 0:
            return None
        return mean_of(differences, SEEDS)
    if min(len(a.seeds), len(b.seeds)) < 2:
        return None
    each = [mean_of(cell.means, SEEDS) for cell in (a, b)]
    parts = [(estimate.standard_error**2, estimate.df) for estimate in each]
    if sum(variance for variance, _ in parts) < ROUNDING**2 and each[0].value != each[1].value:
        return None
    error = float(np.sqrt(sum(variance for variance, _ in parts)))
    return Estimate(each[0].value - each[1].value, error, satterthwaite(parts), SEEDS)


def _alone(cell: CellScores) -> SeedNoise:
    """A cell's noise from its own runs, which contains what a seed does to all cells."""
    if not cell.is_table:
        return SeedNoise(0.0, 1.0, inf)
    squares = two_way(cell.values)
    ratio = squares.seeds / squares.residual if squares.residual > 0 else 1.0
    return SeedNoise(squares.residual, max(ratio, 1.0), len(cell.seeds) - 1)


def _moderated(cells: Sequence[CellScores]) -> list[SeedNoise]:
    """The noise of each of comparable cells: moderated by the others, or its own where it is outlying or well known."""
    squares, quiet = _quiet(cells)
    prior, prior_df = scaled_f(squares.ratios[quiet], squares.df[quiet])
    # What all cells together know can't be surpassed, however alike they look.
    most = squares.df[quiet].sum()
    of_others = np.array([min(prior_df, most, MODERATED_BY.get(df + 1, 0.0)) for df in squares.df])
    # A cell that shares no two seeds with another one has nothing of its own to be known by.
    of_others[squares.df == 0] = min(prior_df, most)
    of_others[_surprise(squares, prior, prior_df) < OUTLYING] = 0.0
    df = of_others + squares.df
    values = (of_others * prior + squares.df * squares.ratios) / df
    return [
        SeedNoise(*map(float, of_cell)) for of_cell in zip(squares.residuals, values, np.minimum(df, most), strict=True)
    ]


def _quiet(cells: Sequence[CellScores]) -> tuple["_Squares", NDArray[np.bool_]]:
    """The cells' mean squares, and which cells aren't so noisy that they would spoil what is known of the others."""
    quiet = np.ones(len(cells), dtype=bool)
    for number in range(ROUNDS):
        squares = _beside_the_others(cells, quiet)
        quiet &= squares.df > 0
        if number < ROUNDS_BY_MEDIAN:  # how much cells differ can't be seen beside one that differs from all
            usual = float(np.median(squares.ratios[quiet] / stats.f.median(squares.df[quiet], ENDLESS)))
            calm = _surprise(squares, usual, inf) >= PLAINLY_OUTLYING
        else:
            prior = scaled_f(squares.ratios[quiet], squares.df[quiet])
            calm = np.array(holm(_surprise(squares, *prior).tolist())) >= OUTLYING
        calm &= squares.df > 0
        if calm.sum() < len(cells) / 2 or (number >= ROUNDS_BY_MEDIAN and (calm == quiet).all()):
            break
        quiet = calm
    return squares, quiet


def _surprise(squares: "_Squares", prior: float, prior_df: float) -> NDArray[np.float64]:
    """How probable it is that a cell of the usual noise shows as much as each does."""
    surprise = stats.f.sf(squares.ratios / prior, np.maximum(squares.df, 1), min(prior_df, ENDLESS))
    return np.where(squares.df > 0, surprise, 1.0)


@dataclass(frozen=True)
class _Squares:
    """Of each cell: what seeds and items leave, how many times that its seeds vary, and the degrees of freedom."""

    residuals: NDArray[np.float64]
    ratios: NDArray[np.float64]
    df: NDArray[np.float64]


def _beside_the_others(cells: Sequence[CellScores], quiet: NDArray[np.bool_]) -> _Squares:
    """Each cell's mean squares once what its seeds do to the quiet others is taken away, over the seeds that it shares.

    Of the others only what a seed changes: where cells have unequal seeds, their means are no part of it.
    """
    sums, counts = defaultdict[int, NDArray[np.float64] | float](float), defaultdict[int, int](int)
    for cell, is_quiet in zip(cells, quiet, strict=True):
        for seed, scores in zip(cell.seeds, cell.values, strict=True):
            sums[seed] = sums[seed] + (scores.astype(np.float64) - cell.by_item) * is_quiet
            counts[seed] += int(is_quiet)
    rows = []
    for cell, is_quiet in zip(cells, quiet, strict=True):
        shared = [seed for seed in cell.seeds if counts[seed] > is_quiet]
        known = cell.of(shared if len(shared) > 1 else cell.seeds)
        others = [(sums[seed] - (scores - cell.by_item) * is_quiet) / (counts[seed] - is_quiet)
                  for seed, scores in zip(shared, known, strict=True)] if len(shared) > 1 else 0.0  # fmt: skip
        squares = two_way(known - np.asarray(others))
        residual = max(squares.residual, ROUNDING**2)
        rows.append((residual, max(squares.seeds / residual, ROUNDING), len(shared) - 1 if len(shared) > 1 else 0))
    return _Squares(*np.array(rows, dtype=np.float64).T)


def scaled_f(ratios: Scores, df: Scores) -> tuple[float, float]:
    """The scale and second degrees of freedom of the F distribution that ratios come from, by Smyth's moments.

    Args:
        ratios: (cells,), each with its first degrees of freedom.

    Returns:
        The usual ratio, and how much it tells of each cell's: infinitely much where they differ no more than by chance.
    """
    logs = np.log(np.maximum(ratios, 1e-5 * np.median(ratios)))
    logs = logs - special.digamma(df / 2) + np.log(df / 2)
    beyond_chance = float(np.var(logs, ddof=1) - np.mean(special.polygamma(1, df / 2)))
    if beyond_chance <= 0:
        return float(np.exp(logs.mean())), inf
    half = brentq(lambda x: special.polygamma(1, x) - beyond_chance, 1e-6, 1e8) if beyond_chance > 1e-7 else inf
    return float(np.exp(logs.mean() + special.digamma(half) - np.log(half))), 2 * half
