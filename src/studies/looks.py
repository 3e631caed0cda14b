"""The looks at a claim to whose cells seeds are added: how far a difference must lie at each, beside a single test.

A claim is looked at with 3, 5, 8 and 12 seeds. Early looks need more: the bounds decrease as those of O'Brien and
Fleming (1979, doi 10.2307/2530245), and together they keep to 5 %. An interval that is wider by the ratio of a look's
bound to a single test's holds at whatever look one stops (repeated confidence intervals: Jennison and Turnbull 1989,
doi 10.1111/j.2517-6161.1989.tb01764.x), and so do Holm's levels with it.
"""

from scipy import stats

from src.analysis.statistics import LEVEL
from src.studies.claims import EQUAL, Claim

STAGES = (3, 5, 8, 12)  # seeds
BOUNDS = (3.32, 2.70, 2.30, 2.05)  # of |z| at each, where the question is which one is greater
EQUALITY_BOUNDS = (2.93, 2.38, 2.03, 1.81)  # of both one-sided z, where it is whether they are equal


def widening(claim: Claim, look: int | None) -> float:
    """How many times as far as in a single test a difference must lie at a look; 1 where it is a single test.

    Args:
        look: its place in `STAGES`.
    """
    if look is None:
        return 1.0
    if claim.expected == EQUAL:
        return EQUALITY_BOUNDS[look] / float(stats.norm.isf(LEVEL))
    return BOUNDS[look] / float(stats.norm.isf(LEVEL / 2))


def look_of(seeds: float) -> int:
    """The first look that has so many seeds, or the last one."""
    return next((look for look, stage in enumerate(STAGES) if seeds <= stage), len(STAGES) - 1)
