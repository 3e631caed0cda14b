"""What a design can tell: power, the smallest difference that it finds, and the seeds and items that a question needs.

A design is a number of seeds and of items. Its noise comes of `Components`, from similar runs or from the binomial
noise of answers. Whether two methods differ is asked by a two-sided t-test, whether they are equal within a margin by
two one-sided ones (Schuirmann 1987, doi 10.1007/BF01068419). Differences are in the metric's unit, levels and powers
are shares.
"""

from dataclasses import dataclass
from math import inf, isinf, sqrt

from scipy import stats
from scipy.optimize import brentq

from src.analysis.error_model import ENDLESS, FEWEST_CELLS, MODERATED_BY, Components
from src.analysis.statistics import LEVEL

POWER = 0.8  # with which a difference counts as found
MOST_SEEDS, MOST_ITEMS = 200, 10_000_000  # beyond these nobody makes runs
NORMAL_FROM = 1e4  # degrees of freedom from which t is taken for normal: the noncentral t becomes slow and inexact


@dataclass(frozen=True)
class Noise:
    """The standard error of a difference and its degrees of freedom."""

    error: float
    df: float


@dataclass(frozen=True)
class Question:
    """What is asked of a pair of cells, at which level: do they differ, or are they equal within a margin?"""

    is_equality: bool = False
    level: float = LEVEL

    def power(self, size: float, noise: Noise) -> float:
        """How likely the answer is found: of a difference of this size, or of equality where that is the margin."""
        return (equality_power if self.is_equality else difference_power)(size, noise, self.level)

    def smallest(self, noise: Noise) -> float:
        """The smallest difference, or margin, that is found with a power of 80 %: the minimum detectable difference."""
        if noise.error == 0:
            return 0.0
        # A quantile of each kind has to be reached; none of them is above this many standard errors.
        most = 2 * (stats.t.isf(self.level / 2, noise.df) + stats.t.isf((1 - POWER) / 2, noise.df))
        unit = Noise(1.0, noise.df)
        return noise.error * float(brentq(lambda size: self.power(size, unit) - POWER, 0.0, most, xtol=1e-6))


def difference_power(difference: float, noise: Noise, level: float = LEVEL) -> float:
    """The power of the two-sided t-test at a true difference, by the noncentral t distribution."""
    if noise.error == 0:
        return 1.0 if difference else level
    shift, limit = abs(difference) / noise.error, float(stats.t.isf(level / 2, noise.df))
    if noise.df > NORMAL_FROM:
        return float(stats.norm.sf(limit - shift) + stats.norm.cdf(-limit - shift))
    return float(sum(stats.nct.sf(limit, noise.df, side) for side in (shift, -shift)))  # its cdf is NaN far out


def equality_power(margin: float, noise: Noise, level: float = LEVEL) -> float:
    """The power of two one-sided t-tests where the true difference is 0, as if its error were known.

    The exact power averages over the estimated error (Phillips 1990, doi 10.1007/BF01063556), which matters with few
    degrees of freedom alone.
    """
    if noise.error == 0:
        return 1.0
    room = margin / noise.error - float(stats.t.isf(level, noise.df))
    return max(float(2 * stats.t.cdf(room, noise.df) - 1), 0.0)


def noise_of(components: Components, seeds: float, items: int, cells: int = 2) -> Noise:
    """The noise of a difference over so many seeds and items, as `ErrorModel` will find it on average.

    Args:
        seeds: of each cell, at least 2, and shared; infinitely many leave the items' noise.
        cells: how many there are on these items. With enough of them, they say how noisy each other is.
    """
    if isinf(seeds):
        return Noise(sqrt(components.item / items), items - 1)
    of_seeds = (components.seed + components.answer / items) / seeds
    total = of_seeds + components.item / items
    df = _df_of_seeds(int(seeds), cells) * (total / of_seeds) ** 2 if of_seeds > 0 else items - 1
    return Noise(sqrt(total), min(df, ENDLESS))


def _df_of_seeds(seeds: int, cells: int) -> float:
    """The degrees of freedom with which a pair's noise over seeds is known."""
    if cells < FEWEST_CELLS:
        return seeds - 1
    return min(2 * (seeds - 1 + MODERATED_BY.get(seeds, 0.0)), (cells - 1) * (seeds - 1))


def binomial_noise(accuracy: float) -> Components:
    """The variances where nothing is known but that two cells are right this often.

    It is assumed that their answers to an item are right or wrong independently of each other, of other items and of
    other seeds. Methods that agree on what is hard have less noise, seeds that matter for many items at once more.
    """
    return Components(seed=0.0, item=0.0, answer=2 * accuracy * (1 - accuracy))


def seeds_needed(
    question: Question, size: float, components: Components, items: int, *, cells: int = 2, above: int = 1
) -> int | None:
    """The smallest number of seeds with a power of 80 %; None where no number of seeds has it on these items.

    Args:
        size: the difference that is to be found, or the margin of equality.
        above: seeds that are known not to be enough.
    """
    if question.power(size, noise_of(components, inf, items)) < POWER:
        return None

    # One by one: the seeds from which a cell's noise is its own may have less power than those before them.
    numbers = range(max(above + 1, 2), MOST_SEEDS + 1)
    return next((n for n in numbers if question.power(size, noise_of(components, n, items, cells)) >= POWER), None)


def items_needed(
    question: Question, size: float, components: Components, seeds: int, *, cells: int = 2, above: int = 1
) -> int | None:
    """The smallest number of items with a power of 80 %; None where no number of items has it with these seeds."""

    def enough(items: int) -> bool:
        return question.power(size, noise_of(components, seeds, items, cells)) >= POWER

    low, high = max(above + 1, 2), MOST_ITEMS
    if low > high or not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
