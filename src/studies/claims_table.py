"""A study's claims held against its runs: a row for each, with the difference, what it can tell, and a verdict.

p-values are corrected (Holm) within a kind, "greater" or "equal", over the claims that could be tested.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src.analysis.comparison import SEEDS_FOR_A_VERDICT, Comparison
from src.analysis.differences import signed
from src.analysis.power import Noise
from src.analysis.statistics import LEVEL, Estimate, PairedTest, holm
from src.analysis.texts import heading, is_missing, main_split, p_value, score_text, unit_of
from src.studies.claims import EQUAL, Claim, Match, cells_of, claims, selector_text
from src.studies.looks import STAGES, look_of, widening
from src.studies.verdicts import (
    NOT_COMPARABLE,
    NOT_RUN,
    TOO_FEW,
    UNDECIDABLE,
    UNDECIDED,
    Design,
    Verdict,
    coverage,
    decision,
    holm_levels,
    is_undecidable,
    p_of,
    question_of,
    single_level,
    turned,
    what_would_decide,
)

DATA = ("split", "metric", "protocol", "data", "number of items")  # what `CellScores.data` says
# A setting among others in a cell's `differs`; a value may have commas.
SETTING = re.compile(r", (?=(?:model|task|trainer|adapter|target|quantization|protocol)\b)")
OWN_TO_METHODS = ("adapter.", "target.")
IF_THERE_ARE_ANY = ("differs in", "why")  # columns of the readable table
MADE_WITH_IN_WORDS = {"shared_code": "code", "versions": "versions", "hardware": "hardware"}


@dataclass(frozen=True)
class Pair:
    """A claim and the cells of the runs that it is about; `test` is None where they can't be tested."""

    claim: Claim
    left: Match
    right: Match
    test: PairedTest | None

    @property
    def indices(self) -> tuple[int, int] | None:
        """The two cells; None where one wasn't run, or several fit."""
        found = self.left.indices, self.right.indices
        return (found[0][0], found[1][0]) if len(found[0]) == len(found[1]) == 1 else None


def pair_of(claim: Claim, comparison: Comparison) -> Pair:
    """The two cells of a claim, and their test."""
    left, right = cells_of(comparison.cells, claim.left), cells_of(comparison.cells, claim.right)
    pair = Pair(claim, left, right, None)
    return pair if pair.indices is None else Pair(claim, left, right, comparison.test(*pair.indices))


def obstacle(pair: Pair, comparison: Comparison) -> Verdict | None:
    """Why a claim can't be tested by these runs, None where it can."""
    sides = {"left": (pair.left, pair.claim.left), "right": (pair.right, pair.claim.right)}
    missing = [selector_text(selector) for match, selector in sides.values() if not match.indices]
    if missing:
        return Verdict(NOT_RUN, f"no finished run: {' and '.join(missing)}")
    several = [f"{selector_text(selector)} fits {len(match.indices)} cells, which differ in {match.differing}"
               for match, selector in sides.values() if len(match.indices) > 1]  # fmt: skip
    if several or pair.indices is None:
        return Verdict(NOT_COMPARABLE, "; ".join(several))
    if why := _other_data(comparison, pair.indices):
        return Verdict(NOT_COMPARABLE, why)
    seeds = [int(comparison.cells["n"][index]) for index in pair.indices]
    if min(seeds) < SEEDS_FOR_A_VERDICT:
        return Verdict(TOO_FEW, f"{min(seeds)} of {SEEDS_FOR_A_VERDICT}")
    return None if pair.test else Verdict(NOT_COMPARABLE, "all seeds differ by the same, which says nothing of noise")


def _other_data(comparison: Comparison, indices: tuple[int, int]) -> str:
    """What of their data keeps two cells from being compared; empty where nothing does."""
    cells, (first, second) = comparison.cells.iloc[list(indices)], (comparison.primary.scores[i] for i in indices)
    if first is None or second is None:
        return "one of them has no score"
    differing = [key for key in ("task", "model") if cells[key].nunique() > 1]
    if isinstance(first.data, tuple) and isinstance(second.data, tuple) and first.data != second.data:
        differing += [name for name, *values in zip(DATA, first.data, second.data, strict=True) if len(set(values)) > 1]
    return f"other {' and '.join(differing)}" if differing else ""


def design_of(comparison: Comparison, indices: tuple[int, int]) -> Design | None:
    """What the difference of two cells is made of; None where they don't share two seeds and their items."""
    first, second = (comparison.primary.places[index] for index in indices)
    if first is None or second is None or first[0] is not second[0]:
        return None
    model = first[0]
    components = model.components(first[1], second[1])
    cells = [model.cells[place[1]] for place in (first, second)]
    seeds = len(set(cells[0].seeds) & set(cells[1].seeds))
    alike = sum(cell.items == cells[0].items for cell in model.cells)
    return Design(components, seeds, cells[0].items[0], alike) if components else None


def claims_table(study: str, comparison: Comparison) -> pd.DataFrame:
    """A row for each claim of the study: both cells, their difference, what it can tell, and the verdict.

    Raises:
        UserError: a claim is written wrongly.
    """
    pairs = [pair_of(claim, comparison) for claim in claims(study)]
    obstacles = [obstacle(pair, comparison) for pair in pairs]
    p_values = [
        float("nan")
        if obstacles[index] or pair.test is None
        else p_of(pair.claim, _turned(pair, comparison), _widening(pair, comparison))
        for index, pair in enumerate(pairs)
    ]
    rows = zip(pairs, obstacles, _by_kind(pairs, p_values), strict=True)
    return pd.DataFrame([_row(pair, comparison, hindered, tested) for pair, hindered, tested in rows])


@dataclass(frozen=True)
class _Tested:
    """A claim's p-value, the corrected one, the level it is tested at, and the strictest level of its kind."""

    p: float
    corrected: float
    level: float
    first_step: float


def _widening(pair: Pair, comparison: Comparison) -> float:
    """That of the last look that both of a pair's cells have the seeds for; 1 where none were added to them."""
    cells = comparison.cells.iloc[list(pair.indices or ())]
    added = cells["look_seeds"].dropna()
    if added.empty:
        return 1.0
    look = look_of(added.max())
    return widening(pair.claim, look if cells["n"].min() >= STAGES[look] else look - 1)


def _turned(pair: Pair, comparison: Comparison) -> Estimate:
    """The pair's difference, above 0 where the left cell is better."""
    assert pair.test is not None
    assert pair.indices is not None
    return turned(pair.test.estimate, higher_is_better=bool(comparison.cells["higher_is_better"][pair.indices[0]]))


def _by_kind(pairs: Sequence[Pair], p_values: Sequence[float]) -> list[_Tested | None]:
    """The corrected p-values and their levels; a claim that isn't tested (NaN) takes no part."""
    by_claim: list[_Tested | None] = [None] * len(pairs)
    for is_equality in (False, True):
        tested = [index for index, (pair, p) in enumerate(zip(pairs, p_values, strict=True))
                  if (pair.claim.expected == EQUAL) == is_equality and not np.isnan(p)]  # fmt: skip
        of_kind = [p_values[index] for index in tested]
        for index, p, corrected, level in zip(tested, of_kind, holm(of_kind), holm_levels(of_kind), strict=True):
            by_claim[index] = _Tested(p, corrected, level, LEVEL / len(tested))
    return by_claim


def _row(pair: Pair, comparison: Comparison, hindered: Verdict | None, tested: _Tested | None) -> dict[str, Any]:
    """A claim's row of the table."""
    claim, cells = pair.claim, comparison.cells
    sides = [cells.iloc[match.indices[0]] if len(match.indices) == 1 else None for match in (pair.left, pair.right)]
    verdict = _verdict(pair, comparison, tested) if tested else hindered or Verdict(NOT_RUN)
    return {
        "claim": claim.claim,
        "source": claim.source,
        "left": selector_text(claim.left),
        "right": selector_text(claim.right),
        "expected": f"{EQUAL} within {claim.margin:g}" if claim.expected == EQUAL else claim.expected,
        "claimed": claim.claimed or None,
        **{f"{side}_{key}": None if cell is None else cell[key]
           for side, cell in zip(("left", "right"), sides, strict=True)
           for key in ("mean", "body_trained", "n", "tuning")},
        "unit": next((unit_of(cell) for cell in sides if cell is not None), None),
        "scored": _scored(cells, pair),
        **_numbers(pair, tested, _widening(pair, comparison)),
        "differs_in": _differences(cells, pair.indices) if pair.indices else None,
        "verdict": verdict.text,
        "why": verdict.why,
    }  # fmt: skip


def _scored(cells: pd.DataFrame, pair: Pair) -> str | None:
    """What the scores of a claim's cells are, as a table's heading has it; None where none was run."""
    run = cells.iloc[[*pair.left.indices, *pair.right.indices]]
    return None if run.empty else heading(run, main_split(run))


def _numbers(pair: Pair, tested: _Tested | None, widened: float) -> dict[str, Any]:
    """The difference with the interval that its verdict is read off, and what could have been detected."""
    if pair.test is None:
        return dict.fromkeys(("difference", "low", "high", "coverage", "p_value", "p_holm", "over", "detectable"))
    estimate, covered = pair.test.estimate, coverage(pair.claim, tested.level, widened) if tested else 1 - LEVEL
    low, high = estimate.interval(covered)
    noise = Noise(estimate.standard_error, estimate.df)
    return {
        "difference": estimate.value,
        "low": low,
        "high": high,
        "coverage": covered,
        "p_value": tested.p if tested else None,
        "p_holm": tested.corrected if tested else None,
        "over": estimate.over,
        "detectable": _detectable(pair.claim, tested.first_step, widened, noise) if tested else None,
    }


def _detectable(claim: Claim, level: float, widened: float, noise: Noise) -> float:
    """The smallest difference, or margin, that is found with a power of 80 %."""
    return question_of(claim, single_level(claim, level, widened)).smallest(noise)


def _verdict(pair: Pair, comparison: Comparison, tested: _Tested) -> Verdict:
    """The verdict on a claim that was tested, and what would decide one that is open."""
    estimate = _turned(pair, comparison)
    text = decision(pair.claim, estimate, tested.level, _widening(pair, comparison))
    if text != UNDECIDED or pair.indices is None:
        return Verdict(text)
    design = design_of(comparison, pair.indices)
    if design is None:
        return Verdict(UNDECIDED, "more seeds" if pair.test and pair.test.over == "seeds only" else "")
    if is_undecidable(pair.claim, design):
        return Verdict(UNDECIDABLE, f"{design.items:,} items are too few for any number of seeds")
    return Verdict(UNDECIDED, what_would_decide(pair.claim, design, tested.level, estimate.value))


def _differences(cells: pd.DataFrame, indices: tuple[int, int]) -> str:
    """In what two cells differ beside their methods: settings, tuning, code, versions and hardware."""
    left, right = (cells.iloc[index] for index in indices)
    ours, theirs = (dict(_setting(text) for text in SETTING.split(cell["differs"] or "")) for cell in (left, right))
    settings = [f"{key} ({ours.get(key, '-')} against {theirs.get(key, '-')})" for key in sorted(ours | theirs)
                if ours.get(key) != theirs.get(key) and not key.startswith(OWN_TO_METHODS)]  # fmt: skip
    budgets = [cell["tuning_budget"] if not is_missing(cell["tuning_budget"]) else cell["tuning"]
               for cell in (left, right)]  # fmt: skip
    tuning = [f"tuning ({budgets[0]} against {budgets[1]})"] if budgets[0] != budgets[1] else []
    made = [text for key, text in MADE_WITH_IN_WORDS.items() if left[key] != right[key]]
    return ", ".join([*settings, *tuning, *made])


def _setting(text: str) -> tuple[str, str]:
    """A setting's key and value."""
    key, _, value = text.partition("=")
    return key, value


def readable_claims(table: pd.DataFrame) -> pd.DataFrame:
    """The claims as texts for people; scores of shares are in percent, their differences in percentage points.

    Args:
        table: what `claims_table` gives.
    """
    text = pd.DataFrame([_readable(row) for row in table.to_dict("records")])
    scored = table["scored"].dropna().unique()
    text = text.rename(columns={"scores": scored[0] if len(scored) == 1 else "scores"})
    return text.drop(columns=[column for column in IF_THERE_ARE_ANY if (text[column] == "-").all()])


def _readable(row: Mapping[Any, Any]) -> dict[str, str]:
    """A claim's row as texts."""
    unit = str(row["unit"])
    return {
        "claim": row["claim"],
        "cells": f"{row['left']} against {row['right']}",
        "n": ", ".join(_count(row[f"{side}_n"]) for side in ("left", "right")),
        "tuning": " against ".join(dict.fromkeys(_text(row[f"{side}_tuning"]) for side in ("left", "right"))),
        "differs in": _text(row["differs_in"]),
        "scores": " against ".join(_score(row[f"{side}_mean"], unit) for side in ("left", "right")),
        "difference": _difference(row, unit),
        "detectable": _score(row["detectable"], unit),
        "p": "-" if is_missing(row["p_holm"]) else p_value(row["p_holm"]),
        "verdict": row["verdict"],
        "why": _text(row["why"]),
    }


def _text(value: Any) -> str:
    return "-" if is_missing(value) or value == "" else str(value)


def _count(value: Any) -> str:
    return "-" if is_missing(value) else str(int(value))


def _score(value: Any, unit: str) -> str:
    """A score in its unit, with one decimal in percent and three otherwise."""
    return "-" if is_missing(value) else score_text(value, unit)


def _difference(row: Mapping[Any, Any], unit: str) -> str:
    """The difference with the ends of its interval, all with their signs."""
    if is_missing(row["difference"]):
        return "-"
    middle, low, high = (signed(row[key], unit) for key in ("difference", "low", "high"))
    return f"{middle} [{low}, {high}]"
