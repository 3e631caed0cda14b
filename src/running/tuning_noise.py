"""What choosing a rate by noisy trials adds to the error of a cell's score: formulas in docs/statistics.md."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, median

from src.running.search import SEEDS, Curve

POOL_WEIGHT = 4  # degrees of freedom that the other cells' noise counts as, beside a cell's own pairs
MEDIAN_OF_SQUARE = 0.4549  # of a standard normal's square
FEW = 10  # pairs, below which their median says too little


def pairs_of(curve: Curve) -> list[float]:
    """For each rate with a sound trial of both seeds an estimate of one trial's variance: d^2 / 2."""
    scores = [[trial.validation or 0.0 for trial in curve.tried[at] if trial.is_sound] for at in curve.sound]
    return [(pair[0] - pair[1]) ** 2 / 2 for pair in scores if len(pair) == SEEDS]


def pooled_variance(pairs: Sequence[float]) -> float | None:
    """One trial's variance by the pairs of all cells; None without any.

    Of many pairs it is their median in place of their mean, so that one noisy cell doesn't decide for all.
    """
    if not pairs:
        return None
    return fmean(pairs) if len(pairs) < FEW else median(pairs) / MEDIAN_OF_SQUARE


def trial_sd(curve: Curve, pooled: float | None) -> float | None:
    """The standard deviation of one trial's validation score at its rate, in the unit of the score.

    The cell's own pairs are moderated by those of all cells, and bounded below by the items' binomial variance where
    the score is a share. None where neither is known.
    """
    own, floor = pairs_of(curve), _item_variance(curve)
    if pooled is None:
        return math.sqrt(floor) or None
    variance = (POOL_WEIGHT * pooled + sum(own)) / (POOL_WEIGHT + len(own))
    return math.sqrt(max(variance, floor)) or None


def _item_variance(curve: Curve) -> float:
    """The variance of the best trial's score as a share of its items; 0 where it is none."""
    best = next(iter(curve.judged()), None)
    if best is None or not best.items or best.validation is None or not 0 <= best.validation <= 1:
        return 0.0
    return best.validation * (1 - best.validation) / best.items


def expected_regret(curve: Curve, sd: float) -> float | None:
    """How much better than the chosen rate another tried one is expected to be, in the unit of the score.

    The largest over the other sound rates of E[max(0, D)], where D is normal with the difference of the scores on the
    seeds that both have, and the standard deviation sd * sqrt(2 / seeds). None where no other rate is sound.
    """
    if curve.chosen is None:
        return None
    return max((_expected_gain(curve, at, sd) for at in curve.sound if at != curve.chosen), default=None)


def _expected_gain(curve: Curve, at: int, sd: float) -> float:
    """E[max(0, D)] of the true difference D between the rate at a position and the chosen one."""
    assert curve.chosen is not None
    both = zip(curve.tried[at], curve.tried[curve.chosen], strict=False)
    gains = [(rival.validation or 0.0) - (own.validation or 0.0) for rival, own in both
             if rival.is_sound and own.is_sound]  # fmt: skip
    mean = fmean(gains) if curve.higher_is_better else -fmean(gains)
    deviation = sd * math.sqrt(2 / len(gains))
    # Not scipy's, which would take a second of every command's start.
    standard = NormalDist()
    return deviation * standard.pdf(mean / deviation) + mean * standard.cdf(mean / deviation)
