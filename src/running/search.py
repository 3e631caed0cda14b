"""Which rates are tried for a cell and which one is chosen: a pure function of what its trials gave.

Rates stand on a grid of quarter decades around the method's own, at `position` 0. The first ones are half a decade
apart. The grid is extended until the best rate is inside, then refined to quarter decades on both sides of the best,
and every rate that broke is replaced. The two best rates get a trial with a second seed, and their means decide. A rate
beside one that broke is chosen only where nothing else is left: with another seed it may break too.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from src.results.schema import StoredTrial

STEPS_A_DECADE = 4
COARSE = 2  # steps between the first rates: half a decade
REFINED = 2  # rates that the refinement adds, one on each side of the best
FINALISTS = 2  # rates that get the second seed
SEEDS = 2
Attempt = tuple[int, int]  # a rate's position, and which of the tuning seeds: 0 or 1


@dataclass(frozen=True)
class Trial:
    """One run at a rate; `validation` is None where it diverged or failed, and `state` says which.

    Of a method that trains several ranks at once it is the mean over them. `flags` has what makes its score doubtful,
    `reason` in words what went wrong, where something did. `items` is how many a share is of; None for other units.
    """

    value: float
    state: str
    validation: float | None = None
    flags: tuple[str, ...] = ()
    reason: str = ""
    seed: int | None = None
    items: int | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the rate may be chosen for its score."""
        return self.validation is not None and math.isfinite(self.validation) and not self.flags

    @property
    def is_broken(self) -> bool:
        """Whether the rate itself broke the training: a full disk says nothing of the rate."""
        return self.state == "diverged" or (self.state == "done" and not self.is_sound)

    def stored(self) -> StoredTrial:
        """The trial as the records of its cell's runs have it."""
        values: StoredTrial = {"value": self.value, "state": self.state, "validation": self.validation}
        if self.seed is not None:
            values["seed"] = self.seed
        if self.flags:
            values["flags"] = list(self.flags)
        return values


@dataclass(frozen=True)
class Budget:
    """How many rates a cell gets: `trials` first ones, and at most `extensions` beside those and the refinement."""

    trials: int
    extensions: int

    @property
    def useful(self) -> int:
        """The sound rates that every cell is to have."""
        return self.trials + REFINED

    @property
    def most(self) -> int:
        """The rates that a cell may have at most."""
        return self.useful + self.extensions


def rate_at(prior: float, position: int) -> float:
    """The rate so many quarter decades from the prior, to two digits; the prior itself is left as it is."""
    # Neighbors differ by a factor of 1.78, and two digits by 1.1 at most: no two positions have one rate.
    return float(f"{prior * 10 ** (position / STEPS_A_DECADE):.2g}") if position else prior


@dataclass(frozen=True)
class Curve:
    """What the trials of a cell gave so far.

    Args:
        tried: by position the trials at that rate, of the first tuning seed and then of the second.
        budget: how many rates there may be.
        higher_is_better: the direction of the validation score.
    """

    tried: Mapping[int, tuple[Trial, ...]]
    budget: Budget
    higher_is_better: bool = True

    # ---- what is known of a rate

    @cached_property
    def sound(self) -> list[int]:
        """The positions that may be chosen: none of their trials broke, and the first one has a score."""
        return [at for at in self._ordered if self.tried[at][0].is_sound and at not in self.broken]

    @cached_property
    def broken(self) -> list[int]:
        """The positions at which a trial of either seed broke."""
        return [at for at in self._ordered if any(trial.is_broken for trial in self.tried[at])]

    @cached_property
    def _ordered(self) -> list[int]:
        return sorted(self.tried)

    @cached_property
    def _telling(self) -> list[int]:
        return sorted({*self.sound, *self.broken})

    def _beside(self, at: int, side: int) -> int | None:
        """The nearest rate below (-1) or above (1) of which something is known."""
        known = [other for other in self._telling if (other - at) * side > 0]
        return min(known, key=lambda other: abs(other - at), default=None)

    def edge(self, at: int) -> int:
        """Where the rate is: 1 at the upper edge of what is known, -1 at the lower, 0 at none."""
        return next((side for side in (1, -1) if self._beside(at, side) is None), 0)

    def is_beside_broken(self, at: int) -> bool:
        """Say whether a neighbor on the finest grid tried broke."""
        return any(self._beside(at, side) in self.broken for side in (-1, 1))

    def _is_cut_off(self, at: int) -> bool:
        """Say whether a neighbor broke and no rate is left to try between the two."""
        return any(self._beside(at, side) in self.broken and at + side in self.tried for side in (-1, 1))

    def _score(self, at: int, seeds: Iterable[int] = (0,)) -> float:
        """The mean over these seeds; higher is better."""
        scores = [self.tried[at][seed].validation or 0.0 for seed in seeds]
        return fmean(scores) if self.higher_is_better else -fmean(scores)

    def _best(self, positions: Iterable[int], seeds: Iterable[int] = (0,)) -> int | None:
        """The position with the best score; of equal ones the nearest to the prior, and of these the lower."""
        return max(positions, key=lambda at: (self._score(at, seeds), -abs(at), -at), default=None)

    # ---- what to try next

    def wanted(self) -> list[Attempt]:
        """The trials to run next, all at once; none where the rate can be chosen."""
        half = self.budget.trials // 2
        first = [COARSE * step for step in range(-half, half + 1)]
        if missing := [at for at in first if at not in self.tried]:
            return [(at, 0) for at in missing]
        room = self.budget.most - len(self.tried)
        leader = self._best(at for at in self.sound if not self._is_cut_off(at))
        for positions in (self._beyond(leader), self._around(leader), self._instead(leader)):
            if positions[:room] and room > 0:
                return [(at, 0) for at in positions[:room]]
        return [(at, 1) for at in self.finalists() if len(self.tried[at]) < SEEDS]

    def _beyond(self, leader: int | None) -> list[int]:
        """Half a decade beyond the edge that the leader is at; where nothing is sound, beyond the nearer one."""
        low, high = self._ordered[0] - COARSE, self._ordered[-1] + COARSE
        if leader is not None:
            return {1: [high], -1: [low], 0: []}[self.edge(leader)]
        if self.sound or not self.broken:
            return []
        ends = [low, high] if self.tried[self._ordered[-1]][0].state != "diverged" else [low]
        return [min(ends, key=abs)]

    def _around(self, leader: int | None) -> list[int]:
        """A quarter decade on both sides of the leader."""
        return [] if leader is None else [at for at in (leader - 1, leader + 1) if at not in self.tried]

    def _instead(self, leader: int | None) -> list[int]:
        """As many rates as broke ones are to be replaced: those nearest to the best, this side of what broke."""
        missing = self.budget.useful - (len(self.tried) - len(self.broken))
        middle = self._best(self.sound) if leader is None else leader
        if middle is None or missing <= 0:
            return []
        low = max((at for at in self.broken if at < middle), default=None)
        high = min((at for at in self.broken if at > middle), default=None)
        reach = range(1, self._ordered[-1] - self._ordered[0] + missing + COARSE)
        free = [
            at
            for distance in reach
            for at in (middle - distance, middle + distance)
            # One next to what broke could not be chosen.
            if at not in self.tried and (low is None or at > low + 1) and (high is None or at < high - 1)
        ]
        return free[:missing]

    # ---- what is chosen

    def finalists(self) -> list[int]:
        """The two best sound rates by the first seed, the best one first.

        Neither is beside one that broke, and the second isn't at an edge, unless nothing else is left.
        """
        safe = [at for at in self.sound if not self.is_beside_broken(at)] or self.sound
        best = self._best(safe)
        if best is None:
            return []
        others = [[at for at in group if at != best] for group in (safe, self.sound)]
        inside = [at for at in others[0] if not self.edge(at)]
        second = self._best(inside or others[0] or others[1])
        return [best] if second is None else [best, second]

    def judged_seeds(self) -> list[int]:
        """Which of the tuning seeds all finalists have a sound trial of."""
        runs = [self.tried[at] for at in self.finalists()]
        return [seed for seed in range(SEEDS) if all(len(run) > seed and run[seed].is_sound for run in runs)]

    @cached_property
    def chosen(self) -> int | None:
        """The position of the best mean over the seeds that both finalists have; None where no rate is sound."""
        finalists = self.finalists()
        safe = [at for at in finalists if not self.is_beside_broken(at)]
        return self._best(safe or finalists, self.judged_seeds() or [0])

    def judged(self) -> list[Trial]:
        """For each finalist its trial with the mean over the judged seeds, the chosen one first."""
        order = sorted(self.finalists(), key=lambda at: at != self.chosen)
        seeds = self.judged_seeds() or [0]
        return [
            replace(self.tried[at][0], validation=fmean(self.tried[at][seed].validation or 0.0 for seed in seeds))
            for at in order
        ]

    def why(self) -> str:
        """In words why the chosen rate is it.

        Raises:
            ValueError: no rate is chosen.
        """
        if self.chosen is None:
            raise ValueError("no rate is chosen, as none is sound")
        seeds, tried = len(self.judged_seeds()), self.tried
        parts = [f"best of {len(self.sound)} sound rates" + (f", by the mean of {seeds} seeds" if seeds > 1 else "")]
        better = [at for at in self.sound if self._score(at) > self._score(self.chosen) and at not in self.finalists()]
        parts += [f"{tried[at][0].value:g} scored higher beside a rate that broke" for at in better
                  if self.is_beside_broken(at)]  # fmt: skip
        if self.is_beside_broken(self.chosen):
            parts.append("beside a rate that broke, as no other is left")
        if self.edge(self.chosen):
            parts.append("at the edge of what was tried")
        if len(self.sound) < self.budget.useful:
            parts.append(f"{self.budget.useful} sound rates were asked for")
        return "; ".join(parts)
