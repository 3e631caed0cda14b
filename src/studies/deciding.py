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

from src.analysis.comparison import Comparison, uncompared
from src.analysis.power import noise_of
from src.analysis.statistics import LEVEL, Estimate
from src.studies.claims import EQUAL, Claim, Match, cells_of
from src.studies.claims_table import design_of, obstacle, pair_of
from src.studies.looks import STAGES, widening
from src.studies.verdicts import (
    TOO_FEW,
    UNDECIDABLE,
    UNDECIDED,
    Design,
    Verdict,
    decision,
    holm_levels,
    is_undecidable,
    p_of,
    single_level,
    turned,
)

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
    if is_undecidable(claim, design):
        return Verdict(UNDECIDABLE, f"{design.items:,} items are too few for any number of seeds")
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


@dataclass(frozen=True)
class _Looked:
    """What a look shows of a claim: its difference, above 0 where the left cell is better, and the look's p-value."""

    estimate: Estimate
    design: Design | None
    seeds: int
    p: float


def positions(claims: Sequence[Claim], runs: pd.DataFrame, seeds: Sequence[int]) -> list[Position]:
    """Where each claim stands, from the records alone: every look is made again with its own seeds.

    Args:
        runs: the rows of `collect`, of any seeds.
        seeds: those of the looks, in order.
    """
    settled: dict[int, Position] = {}
    # Of the claims that are or will be tested: those settled keep theirs, those that wait for seeds have none yet.
    p_values: dict[int, float] = {}
    for look, stage in enumerate(STAGES):
        if len(settled) == len(claims):
            break
        comparison = uncompared(of_seeds(runs, seeds[:stage]))
        looked = {
            index: _look_at(claim, comparison, look) for index, claim in enumerate(claims) if index not in settled
        }
        for index, one in looked.items():
            if isinstance(one, _Looked) or one.needs:
                p_values[index] = one.p if isinstance(one, _Looked) else 1.0
        levels = _levels(claims, p_values)
        for index, one in looked.items():
            position = one if isinstance(one, Position) else _position(claims[index], one, look, levels[index])
            if position:
                settled[index] = position
    return [settled[index] for index in range(len(claims))]


def _levels(claims: Sequence[Claim], p_values: dict[int, float]) -> dict[int, float]:
    """The level at which Holm tests each claim, over those of its kind."""
    levels: dict[int, float] = {}
    for is_equality in (False, True):
        of_kind = {index: p for index, p in p_values.items() if (claims[index].expected == EQUAL) == is_equality}
        levels |= dict(zip(of_kind, holm_levels(list(of_kind.values())), strict=True))
    return levels


def _position(claim: Claim, looked: _Looked, look: int, level: float) -> Position | None:
    """Where a claim stands after a look; None where it is to be looked at again."""
    verdict = after_look(claim, looked.estimate, looked.design, look, level)
    return Position(claim, verdict, looked.seeds) if verdict else None


def of_seeds(runs: pd.DataFrame, seeds: Sequence[int]) -> pd.DataFrame:
    """The runs with some seeds; all of them where none has one, so that there is something to compare."""
    chosen = runs[runs["seed"].isin(seeds) & runs["trial"].eq(False).fillna(False)]
    return (runs if chosen.empty else chosen).reset_index(drop=True)


def _look_at(claim: Claim, comparison: Comparison, look: int) -> "_Looked | Position":
    """What a look shows of a claim, or where it stands if it can't be made."""
    stage, pair = STAGES[look], pair_of(claim, comparison)
    seeds = min(_seeds_of(match, comparison) for match in (pair.left, pair.right))
    hindered = obstacle(pair, comparison)
    if seeds < stage and (hindered is None or hindered.text == TOO_FEW):
        return Position(claim, Verdict(UNDECIDED), seeds, needs=stage)
    if hindered or pair.test is None or pair.indices is None:
        return Position(claim, hindered or Verdict(UNDECIDED), seeds)
    better = bool(comparison.cells["higher_is_better"][pair.indices[0]])
    estimate = turned(pair.test.estimate, higher_is_better=better)
    p = p_of(claim, estimate, widening(claim, look))
    return _Looked(estimate, design_of(comparison, pair.indices), seeds, p)


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
