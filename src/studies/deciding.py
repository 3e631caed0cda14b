"""Seeds added until a claim is decided, without more false verdicts than one test has: a group-sequential design.

A claim is looked at with 3, 5, 8 and 12 seeds, the first ones in a fixed order. Early looks need more: the bounds
decrease as those of O'Brien and Fleming (1979, doi 10.2307/2530245), and together they keep to 5 %. A claim is given up
where its predictive power is below 10 %: how likely the last look will decide it, given what the runs show so far
(Spiegelhalter, Freedman and Blackburn 1986, doi 10.1016/0197-2456(86)90003-6). Each claim has its 5 % to itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import pandas as pd
from scipy import stats

from src.analysis.comparison import Comparison, uncompared
from src.analysis.power import noise_of
from src.analysis.statistics import Estimate
from src.studies.claims import EQUAL, Claim, Match, cells_of
from src.studies.claims_table import design_of, obstacle, pair_of
from src.studies.verdicts import TOO_FEW, UNDECIDABLE, UNDECIDED, Design, Verdict, decision, is_undecidable, turned

STAGES = (3, 5, 8, 12)  # seeds
BOUNDS = (3.32, 2.70, 2.30, 2.05)  # of |z| at each
EQUALITY_BOUND = 1.96  # of both one-sided tests at each
FUTILE = 0.1  # the predictive power below which a claim is given up


@dataclass(frozen=True)
class Position:
    """Where a claim stands: its verdict so far, with how many seeds, and what it needs for the next look.

    `needs` is the number of seeds of both cells at that look; 0 where the claim is settled, and `verdict` says why.
    """

    claim: Claim
    verdict: Verdict
    seeds: int
    needs: int = 0


def seeds_in_order(own: Sequence[int], of_tuning: Sequence[int]) -> list[int]:
    """The seeds of the looks: the study's own, then the next integers that no trial has."""
    order = list(dict.fromkeys(own))
    following = max(order) + 1
    while len(order) < STAGES[-1]:
        if following not in of_tuning:
            order.append(following)
        following += 1
    return order


def after_look(claim: Claim, estimate: Estimate, design: Design | None, look: int) -> Verdict | None:
    """What a claim's difference says at a look; None where more seeds are worth it.

    Args:
        estimate: above 0 where the left cell is better.
        design: None where the scores don't say what their difference is made of; then no claim is given up early.
        look: its place in `STAGES`.
    """
    one_sided = float(stats.norm.sf(BOUNDS[look]))
    if claim.expected == EQUAL:
        text = decision(claim, estimate, float(stats.norm.sf(EQUALITY_BOUND)), beyond=one_sided)
    else:
        text = decision(claim, estimate, 2 * one_sided)
    if text != UNDECIDED:
        return Verdict(text)
    if look == len(STAGES) - 1:
        return Verdict(UNDECIDED, f"still open with {STAGES[-1]} seeds")
    if design is None:
        return None
    if is_undecidable(claim, design):
        return Verdict(UNDECIDABLE, f"{design.items:,} items are too few for any number of seeds")
    power = predictive_power(claim, estimate.value, design, STAGES[look])
    if power < FUTILE:
        return Verdict(UNDECIDED, f"{STAGES[-1]} seeds would decide it with a probability of {100 * power:.0f} %")
    return None


def predictive_power(claim: Claim, difference: float, design: Design, seeds: int) -> float:
    """How likely the last look will decide a claim, given the difference with so many seeds.

    The difference at the last look is normal around the present one, with the variance that more seeds take away.
    """
    now, last = (noise_of(design.components, n, design.items, design.cells).error for n in (seeds, STAGES[-1]))
    spread = sqrt(max(now**2 - last**2, 0.0))
    if spread == 0:
        return 0.0
    at_last = stats.norm(difference, spread)
    found = claim.margin + BOUNDS[-1] * last  # beyond a margin of 0 where the question is which one is greater
    decided = at_last.sf(found) + at_last.cdf(-found)
    room = claim.margin - EQUALITY_BOUND * last
    if claim.expected == EQUAL and room > 0:
        decided += at_last.cdf(room) - at_last.cdf(-room)
    return float(decided)


def positions(claims: Sequence[Claim], runs: pd.DataFrame, seeds: Sequence[int]) -> list[Position]:
    """Where each claim stands, from the records alone: every look is made again with its own seeds.

    Args:
        runs: the rows of `collect`, of any seeds.
        seeds: those of the looks, in order.
    """
    open_claims = dict(enumerate(claims))
    found: dict[int, Position] = {}
    for look, stage in enumerate(STAGES):
        if not open_claims:
            break
        comparison = uncompared(of_seeds(runs, seeds[:stage]))
        for index, claim in list(open_claims.items()):
            if position := _at_look(claim, comparison, look):
                found[index] = position
                del open_claims[index]
    return [found[index] for index in range(len(claims))]


def of_seeds(runs: pd.DataFrame, seeds: Sequence[int]) -> pd.DataFrame:
    """The runs with some seeds; all of them where none has one, so that there is something to compare."""
    chosen = runs[runs["seed"].isin(seeds) & runs["trial"].eq(False).fillna(False)]
    return (runs if chosen.empty else chosen).reset_index(drop=True)


def _at_look(claim: Claim, comparison: Comparison, look: int) -> Position | None:
    """Where a claim stands if it goes no further than this look; None where it is to be looked at again."""
    stage, pair = STAGES[look], pair_of(claim, comparison)
    seeds = min(_seeds_of(match, comparison) for match in (pair.left, pair.right))
    hindered = obstacle(pair, comparison)
    if seeds < stage and (hindered is None or hindered.text == TOO_FEW):
        return Position(claim, Verdict(UNDECIDED), seeds, needs=stage)
    if hindered or pair.test is None or pair.indices is None:
        return Position(claim, hindered or Verdict(UNDECIDED), seeds)
    better = bool(comparison.cells["higher_is_better"][pair.indices[0]])
    estimate = turned(pair.test.estimate, higher_is_better=better)
    verdict = after_look(claim, estimate, design_of(comparison, pair.indices), look)
    return Position(claim, verdict, seeds) if verdict else None


def _seeds_of(match: Match, comparison: Comparison) -> int:
    """How many seeds the only cell has; 0 where there is none, or several."""
    return int(comparison.cells["n"][match.indices[0]]) if len(match.indices) == 1 else 0


def runs_of(claim: Claim, runs: pd.DataFrame, seeds: Sequence[int]) -> list[pd.DataFrame]:
    """The finished runs of a claim's two cells, each a frame; empty where a cell wasn't run or several fit."""
    comparison = uncompared(of_seeds(runs, seeds))
    found = []
    for selector in (claim.left, claim.right):
        match = cells_of(comparison.cells, selector)
        ids = comparison.cells["run_ids"][match.indices[0]] if len(match.indices) == 1 else []
        found.append(runs[runs["run_id"].isin(ids) & (runs["state"] == "done")])
    return found
