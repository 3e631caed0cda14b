"""What the runs say of a claim: each verdict follows from a difference, its error and the level of the test.

Whether "greater" holds is a two-sided test against 0, whether "equal" holds two one-sided tests against the margin
(Schuirmann 1987). Both are read off an interval, which is as wide as the level asks for: of 95 % and of 90 % at 5 %.
`widening` is that of `src.studies.looks`, 1 for a single test.
"""

from dataclasses import dataclass
from math import inf

from scipy import stats

from src.analysis.error_model import Components
from src.analysis.power import MOST_SEEDS, POWER, Question, items_needed, noise_of, seeds_needed
from src.analysis.statistics import LEVEL, Estimate, holm
from src.studies.claims import EQUAL, Claim

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
SMALLER, EQUAL_WITHIN = "smaller than claimed", "equal within the margin"
UNDECIDED, UNDECIDABLE = "undecided", "can't be decided by this design"
TOO_FEW, NOT_COMPARABLE, NOT_RUN = "too few seeds", "not comparable", "not run"


@dataclass(frozen=True)
class Verdict:
    """A verdict and, where it isn't plain from the numbers, why it is that."""

    text: str
    why: str = ""


@dataclass(frozen=True)
class Design:
    """What a claim's difference is made of, and how it was measured: its variances, and numbers of seeds and items.

    `cells` is how many are scored on these items.
    """

    components: Components
    seeds: int
    items: int
    cells: int


def turned(estimate: Estimate, *, higher_is_better: bool) -> Estimate:
    """A difference so that above 0 means better."""
    sign = 1 if higher_is_better else -1
    return Estimate(sign * estimate.value, estimate.standard_error, estimate.df, estimate.over)


def p_of(claim: Claim, estimate: Estimate, widening: float = 1.0) -> float:
    """The p-value of what a claim is tested for, not corrected for other claims.

    Of "greater" the two-sided one of no difference; of "equal" that of two one-sided tests, or where it is smaller the
    one-sided one of a difference within the margin: the answer that the runs lean to.
    """
    if claim.expected != EQUAL:
        return min(1.0, 2 * _widened(estimate.p_value() / 2, 1 / widening))
    return _widened(min(p_of_equality(claim.margin, estimate), p_beyond(claim.margin, estimate)), 1 / widening)


def _widened(one_sided: float, factor: float) -> float:
    """The one-sided level whose normal quantile is so many times as large."""
    return float(stats.norm.sf(factor * stats.norm.isf(one_sided)))


def single_level(claim: Claim, level: float, widening: float) -> float:
    """The level of a single test that is as strict: two-sided of "greater", one-sided of "equal"."""
    return _widened(level, widening) if claim.expected == EQUAL else 2 * _widened(level / 2, widening)


def p_of_equality(margin: float, estimate: Estimate) -> float:
    """The p-value of two one-sided tests: how well a difference beyond the margin explains this one at best."""
    return max(_p_above(-margin, estimate), 1 - _p_above(margin, estimate))


def p_beyond(margin: float, estimate: Estimate) -> float:
    """The one-sided p-value of the hypothesis that the difference is within the margin."""
    return min(_p_above(margin, estimate), 1 - _p_above(-margin, estimate))


def _p_above(null: float, estimate: Estimate) -> float:
    """The one-sided p-value of the hypothesis that the true value is at most `null`."""
    half = estimate.p_value(null) / 2
    return half if estimate.value > null else 1 - half


def holm_levels(p_values: list[float]) -> list[float]:
    """The levels that Holm's correction tests at: p is below its level exactly where the corrected one is below 5 %.

    The smallest of m is tested at 5 % / m, the next one at 5 % / (m - 1); from the first that isn't below its level on,
    all others stand at that level.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, levels, level = holm(p_values), [LEVEL] * len(p_values), LEVEL
    for place, index in enumerate(order):
        if place == 0 or corrected[order[place - 1]] < LEVEL:
            level = LEVEL / (len(order) - place)
        levels[index] = level
    return levels


def coverage(claim: Claim, level: float, widening: float = 1.0) -> float:
    """The coverage of the interval off which a verdict at this level is read."""
    single = single_level(claim, level, widening)
    return 1 - (2 * single if claim.expected == EQUAL else single)


def decision(claim: Claim, estimate: Estimate, level: float, widening: float = 1.0) -> str:
    """What a difference says of a claim at a level; it is "undecided" where it says neither yes nor no.

    Args:
        estimate: above 0 where the left cell is better.
    """
    low, high = estimate.interval(coverage(claim, level, widening))
    if claim.expected == EQUAL:
        if -claim.margin < low and high < claim.margin:
            return EQUAL_WITHIN
        return NOT_REPRODUCED if low > claim.margin or high < -claim.margin else UNDECIDED
    # No significant difference isn't evidence of none: the claim stays open.
    if low <= 0 <= high:
        return UNDECIDED
    if high < 0:
        return NOT_REPRODUCED
    return SMALLER if claim.claimed > high else REPRODUCED


def question_of(claim: Claim, level: float = LEVEL) -> Question:
    """What a claim asks."""
    return Question(claim.expected == EQUAL, level)


def undecidable(claim: Claim, design: Design) -> Verdict | None:
    """The verdict where no number of seeds on these items finds what is claimed with a power of 80 %; None elsewhere.

    Not even as the only test.
    """
    endless = noise_of(design.components, inf, design.items)
    if claim.size > 0 and question_of(claim).power(claim.size, endless) < POWER:
        return Verdict(UNDECIDABLE, f"{design.items:,} items are too few for any number of seeds")
    return None


def what_would_decide(claim: Claim, design: Design, level: float, observed: float) -> str:
    """The seeds, and the items, with which a claim that is open would be decided with a power of 80 %.

    Args:
        observed: the difference, which is taken for the true one where the source claims none.
    """
    question, size = question_of(claim, level), claim.size or abs(observed)
    seeds, items, parts = design.seeds, design.items, design.components
    more_seeds = seeds_needed(question, size, parts, items, cells=design.cells, above=seeds)
    more_items = items_needed(question, size, parts, seeds, cells=design.cells, above=items)
    ways = [f"{more_seeds} seeds"] if more_seeds else []
    ways += [f"{_rounded(more_items):,} items"] if more_items else []
    assumed = "are equal" if claim.expected == EQUAL else "differ as claimed" if claim.claimed else "differ as measured"
    return f"if they {assumed}: {' or '.join(ways) or f'more than {MOST_SEEDS} seeds'}"


def _rounded(items: int) -> int:
    """A number of items rounded up to two digits, as a prediction is no better than that."""
    unit = int(10 ** max(len(str(items)) - 2, 0))
    return -(-items // unit) * unit
