"""Seeds added until a claim is decided, without more false verdicts than one test has: a group-sequential design.

A claim is looked at with the first 3, 5, 8 and 12 seeds in a fixed order (`src.studies.looks`), and at each look Holm
corrects over the claims of a kind, as in the table of the claims. It is given up where its predictive power is below
10 %: how likely the last look will decide it, given what the runs show so far (Spiegelhalter, Freedman and Blackburn
1986, doi 10.1016/0197-2456(86)90003-6).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import pandas as pd
from scipy import stats

from src.analysis.comparison import uncompared
from src.analysis.power import noise_of
from src.analysis.statistics import LEVEL, Estimate
from src.studies.claim_tests import ClaimTest, Pair, corrected_by_kind, obstacle, p_at, pair_of
from src.studies.claims import EQUAL, Claim, cells_of
from src.studies.looks import STAGES, widening
from src.studies.verdicts import (
    TOO_FEW,
    UNDECIDED,
    Design,
    Verdict,
    decision,
    single_level,
    undecidable,
)

FUTILE = 0.1  # the predictive power below which a claim is given up


@dataclass(frozen=True)
class Position:
    """Where a claim stands: its verdict so far, with how many seeds, what it needs for the next look, and its test.

    `needs` is the number of seeds of both cells at that look; 0 where the claim is settled, and `verdict` says why.
    `test` is that of the look that settled the claim, or else of the last whole one; None where there are no runs.
    """

    claim: Claim
    verdict: Verdict
    seeds: int
    needs: int = 0
    test: ClaimTest | None = None


def seeds_in_order(own: Sequence[int], of_tuning: Sequence[int]) -> list[int]:
    """The seeds of the looks: the study's own in their order as numbers, then the next integers that no trial has."""
    order = sorted(set(own))
    following = order[-1] + 1
    while len(order) < STAGES[-1]:
        if following not in of_tuning:
            order.append(following)
        following += 1
    return order


def after_look(
    claim: Claim, estimate: Estimate, design: Design | None, look: int, level: float = LEVEL
) -> Verdict | None:
    """What a claim's difference says at a look; None where more seeds are worth it.

    Args:
        estimate: above 0 where the left cell is better.
        design: None where the scores don't say what their difference is made of; then no claim is given up early.
        look: its place in `STAGES`.
        level: that at which Holm tests the claim.
    """
    text = decision(claim, estimate, level, widening(claim, look))
    if text != UNDECIDED:
        return Verdict(text)
    if look == len(STAGES) - 1:
        return Verdict(UNDECIDED, f"still open with {STAGES[-1]} seeds")
    if design is None:
        return None
    if verdict := undecidable(claim, design):
        return verdict
    power = predictive_power(claim, estimate.value, design, STAGES[look], level)
    if power < FUTILE:
        return Verdict(UNDECIDED, f"{STAGES[-1]} seeds would decide it with a probability of {100 * power:.0f} %")
    return None


def predictive_power(claim: Claim, difference: float, design: Design, seeds: int, level: float = LEVEL) -> float:
    """How likely the last look will decide a claim, given the difference with so many seeds.

    The difference at the last look is normal around the present one, with the variance that more seeds take away.
    """
    now, last = (noise_of(design.components, n, design.items, design.cells).error for n in (seeds, STAGES[-1]))
    spread = sqrt(max(now**2 - last**2, 0.0))
    if spread == 0:
        return 0.0
    at_last = stats.norm(difference, spread)
    single = single_level(claim, level, widening(claim, len(STAGES) - 1))
    reach = last * float(stats.norm.isf(single if claim.expected == EQUAL else single / 2))
    found = claim.margin + reach  # beyond a margin of 0 where the question is which one is greater
    decided = at_last.sf(found) + at_last.cdf(-found)
    room = claim.margin - reach
    if claim.expected == EQUAL and room > 0:
        decided += at_last.cdf(room) - at_last.cdf(-room)
    return float(decided)


def standing(claims: Sequence[Claim], runs: pd.DataFrame) -> list[Position]:
    """Where each claim stands, with the seeds of the looks from the records too: the planned ones, then those added.

    Args:
        runs: the rows of `collect`.
    """
    reported = runs[runs["trial"].eq(False).fillna(False)]
    first_look = reported["look_seeds"].fillna(0).groupby(reported["seed"]).min()
    return positions(claims, runs, sorted(first_look.index, key=lambda seed: (first_look[seed], seed)))


def positions(claims: Sequence[Claim], runs: pd.DataFrame, seeds: Sequence[int]) -> list[Position]:
    """Where each claim stands, from the records alone: every look is made again with its own seeds.

    Args:
        runs: the rows of `collect`, of any seeds.
        seeds: those of the looks, in order.
    """
    settled: dict[int, Position] = {}
    tests: dict[int, ClaimTest] = {}  # of the last whole look at each claim
    # Of the claims that are or will be tested: those settled keep theirs, those that wait for seeds have none yet.
    p_values: dict[int, float] = {}
    for look, stage in enumerate(STAGES):
        if len(settled) == len(claims):
            break
        comparison = uncompared(of_seeds(runs, seeds[:stage]))
        pairs = {index: pair_of(claim, comparison) for index, claim in enumerate(claims) if index not in settled}
        waiting = {index for index, pair in pairs.items() if _waits(pair, stage)}
        p_values |= dict.fromkeys(waiting, 1.0)
        p_values |= {
            index: p for index, pair in pairs.items() if index not in waiting and (p := p_at(pair, look)) is not None
        }
        corrected = corrected_by_kind(claims, p_values)
        for index, pair in pairs.items():
            if index in waiting:
                last = tests.get(index, ClaimTest(pair))
                settled[index] = Position(claims[index], Verdict(UNDECIDED), _seeds_of(pair), stage, last)
                continue
            tests[index] = ClaimTest(pair, look, corrected.get(index))
            if verdict := _after_test(tests[index]):
                settled[index] = Position(claims[index], verdict, _seeds_of(pair), test=tests[index])
    return [settled[index] for index in range(len(claims))]


def _waits(pair: Pair, stage: int) -> bool:
    """Whether a claim has too few seeds for a look, and nothing else against it."""
    hindered = obstacle(pair)
    return _seeds_of(pair) < stage and (hindered is None or hindered.text == TOO_FEW)


def _after_test(test: ClaimTest) -> Verdict | None:
    """The verdict on a claim after a whole look; None where it is to be looked at again."""
    estimate = test.pair.difference
    if test.corrected is None or estimate is None or test.look is None:
        return obstacle(test.pair) or Verdict(UNDECIDED)
    return after_look(test.pair.claim, estimate, test.pair.design, test.look, test.corrected.level)


def of_seeds(runs: pd.DataFrame, seeds: Sequence[int]) -> pd.DataFrame:
    """The runs with some seeds; all of them where none has one, so that there is something to compare."""
    chosen = runs[runs["seed"].isin(seeds) & runs["trial"].eq(False).fillna(False)]
    return (runs if chosen.empty else chosen).reset_index(drop=True)


def _seeds_of(pair: Pair) -> int:
    """How many seeds both cells have; 0 where one wasn't run, or several fit."""
    return min((int(pair.comparison.cells["n"][index]) for index in pair.indices or ()), default=0)


def runs_of(claim: Claim, runs: pd.DataFrame, seeds: Sequence[int]) -> list[pd.DataFrame]:
    """The finished runs of a claim's two cells, each a frame; empty where a cell wasn't run or several fit."""
    comparison = uncompared(of_seeds(runs, seeds))
    found = []
    for selector in (claim.left, claim.right):
        match = cells_of(comparison.cells, selector)
        ids = comparison.cells["run_ids"][match.indices[0]] if len(match.indices) == 1 else []
        found.append(runs[runs["run_id"].isin(ids) & (runs["state"] == "done")])
    return found
