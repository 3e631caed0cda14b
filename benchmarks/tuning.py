"""What a tuned learning rate costs against the best one, by simulation: the search of `src.tune` and the one before it.

    python -m benchmarks.tuning

A validation score, in points, is a parabola over the logarithm of the rate, whose peak lies near the prior, plus noise.
With a cliff, training breaks above some rate, which differs a little from seed to seed. A rate's true score is its mean
over endless seeds, with `BROKEN` points where it breaks; the regret is that of the best rate minus the chosen one's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from src.files import write_json
from src.running.search import STEPS_A_DECADE, Budget, Curve, Trial, rate_at
from src.running.tuning_noise import expected_regret

RESULT = Path(__file__).with_suffix(".json")
CELLS, SEED = 1000, 0
NOISES = (0.2, 0.3, 0.5, 0.8)  # standard deviation of one trial's score, points
PRIOR_SD = 0.35  # decades from the prior to the peak
CURVATURES = (4.0, 10.0)  # points lost a decade from the peak: the curves of results/rank_vs_accuracy
PEAK, BROKEN = 55.0, 10.0  # points
CLIFFS = (0.0, 0.9)  # decades from the peak to the cliff
SHIFT = 0.06  # standard deviation of the cliff over seeds, decades
Outcome = tuple[int | None, int, float | None]  # position that is chosen, trials, expected regret


@dataclass(frozen=True)
class World:
    """The truth of one cell; rates in decades from the prior, scores in points."""

    peak: float
    curvature: float
    cliff: float
    noise: float
    generator: np.random.Generator

    def trial(self, position: int) -> Trial:
        """A run at a rate with a seed of its own."""
        at = position / STEPS_A_DECADE
        if at > self.cliff + self.generator.normal(0, SHIFT):
            return Trial(rate_at(1.0, position), "diverged")
        score = self.smooth(np.array(at)) + self.generator.normal(0, self.noise)
        return Trial(rate_at(1.0, position), "done", float(score))

    def smooth(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scores of trainings that don't break."""
        return np.asarray(PEAK - self.curvature * (at - self.peak) ** 2)

    def true_scores(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """The means over endless seeds."""
        breaks = norm.cdf((at - self.cliff) / SHIFT)
        return np.asarray((1 - breaks) * self.smooth(at) + breaks * BROKEN)

    def regret(self, position: int) -> float:
        """How far a rate's true score is below the best one's, on a grid of hundredths of a decade."""
        best = self.true_scores(np.arange(-300, 301) / 100).max()
        return float(best - self.true_scores(np.array(position / STEPS_A_DECADE)))


def world(noise: float, *, has_cliff: bool, generator: np.random.Generator) -> World:
    """A cell drawn at random."""
    peak, curvature = generator.normal(0, PRIOR_SD), generator.uniform(*CURVATURES)
    cliff = peak + generator.uniform(*CLIFFS)
    return World(peak, curvature, cliff if has_cliff else np.inf, noise, generator)


def former(cell: World, trials: int = 3, extensions: int = 1) -> Outcome:
    """The best of trials half a decade apart, with one more beyond an edge; one seed."""
    half = trials // 2
    tried = {2 * step: cell.trial(2 * step) for step in range(-half, half + 1)}
    while True:
        sound = [at for at, trial in tried.items() if trial.is_sound]
        best = max(sound, key=lambda at: tried[at].validation or 0.0, default=None)
        edges = {min(tried): -2, max(tried): 2}
        if best not in edges or len(tried) >= trials + extensions:
            return best, len(tried), None
        tried[best + edges[best]] = cell.trial(best + edges[best])


def search(cell: World, trials: int = 3, extensions: int = 6) -> Outcome:
    """The search of `src.tune`."""
    tried: dict[int, tuple[Trial, ...]] = {}
    while wanted := (curve := Curve(tried, Budget(trials, extensions))).wanted():
        tried = dict(tried)
        for position, _ in wanted:
            tried[position] = (*tried.get(position, ()), cell.trial(position))
    return curve.chosen, sum(map(len, tried.values())), expected_regret(curve, cell.noise)


def measured(rule: Callable[[World], Outcome], noise: float, *, has_cliff: bool) -> dict[str, float]:
    """Regrets of the rule over `CELLS` cells, in points, and what it took."""
    cells = [world(noise, has_cliff=has_cliff, generator=np.random.default_rng([SEED, cell])) for cell in range(CELLS)]
    outcomes = [rule(cell) for cell in cells]
    regrets = [cell.regret(at) for cell, (at, _, _) in zip(cells, outcomes, strict=True) if at is not None]
    expected = [value for _, _, value in outcomes if value is not None]
    facts = {
        "regret_mean": float(np.mean(regrets)),
        "regret_sd": float(np.std(regrets)),
        "regret_median": float(np.median(regrets)),
        "over_a_point": float(np.mean(np.array(regrets) > 1)),
        "trials": float(np.mean([trials for _, trials, _ in outcomes])),
        "no_rate": float(np.mean([at is None for at, _, _ in outcomes])),
    }
    facts |= {"expected_regret": float(np.mean(expected))} if expected else {}
    return {key: round(value, 3) for key, value in facts.items()}


def main() -> None:
    """Write the regrets by cliff, noise and rule, and print them."""
    rules: dict[str, Callable[[World], Outcome]] = {
        "former, 3 trials": former,
        "search, 3 trials": search,
        "search, 5 trials": lambda cell: search(cell, trials=5),
    }
    made = {
        kind: {
            str(noise): {name: measured(rule, noise, has_cliff=has_cliff) for name, rule in rules.items()}
            for noise in NOISES
        }
        for kind, has_cliff in (("no cliff", False), ("cliff", True))
    }
    write_json(RESULT, {"cells": CELLS, "regrets_in_points": made})
    for kind, by_noise in made.items():
        for noise, by_rule in by_noise.items():
            for name, facts in by_rule.items():
                print(f"{kind:<9} {noise} {name:<17} {'  '.join(f'{key} {value}' for key, value in facts.items())}")


if __name__ == "__main__":
    main()
