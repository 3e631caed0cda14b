"""A study's claims held against its runs: a row for each, with the difference, what it can tell, and a verdict."""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.differences import signed
from src.analysis.power import Noise
from src.analysis.statistics import LEVEL
from src.analysis.texts import heading, is_missing, main_split, p_value, score_text, unit_of
from src.studies.claim_tests import ClaimTest, Pair, obstacle, tested_once
from src.studies.claims import EQUAL, Claim, claims, selector_text
from src.studies.deciding import standing
from src.studies.verdicts import (
    NOT_RUN,
    UNDECIDED,
    Verdict,
    coverage,
    decision,
    question_of,
    single_level,
    undecidable,
    what_would_decide,
)

# A setting among others in a cell's `differs`; a value may have commas.
SETTING = re.compile(r", (?=(?:model|task|trainer|adapter|target|quantization|protocol)\b)")
OWN_TO_METHODS = ("adapter.", "target.")
IF_THERE_ARE_ANY = ("differs in", "why")  # columns of the readable table
MADE_WITH_IN_WORDS = {"shared_code": "code", "versions": "versions", "hardware": "hardware"}


def claims_table(study: str, runs: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """A row for each claim of the study: both cells, their difference, what it can tell, and the verdict.

    Where seeds were added until claims were decided, each stands at the look that settled it, or at its last one.

    Args:
        runs: the rows of `collect`.
        comparison: that of these runs.

    Raises:
        UserError: a claim is written wrongly.
    """
    asked, added = claims(study), runs["look_seeds"].notna().any()
    tests = [position.test for position in standing(asked, runs)] if added else tested_once(asked, comparison)
    return pd.DataFrame([_row(test) for test in tests if test])


def _row(test: ClaimTest) -> dict[str, Any]:
    """A claim's row of the table."""
    claim, pair = test.pair.claim, test.pair
    cells = pair.comparison.cells
    sides = [cells.iloc[match.indices[0]] if len(match.indices) == 1 else None for match in (pair.left, pair.right)]
    verdict = _verdict(test)
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
        **_numbers(test),
        "differs_in": _differences(cells, pair.indices) if pair.indices else None,
        "verdict": verdict.text,
        "why": verdict.why,
    }  # fmt: skip


def _scored(cells: pd.DataFrame, pair: Pair) -> str | None:
    """What the scores of a claim's cells are, as a table's heading has it; None where none was run."""
    run = cells.iloc[[*pair.left.indices, *pair.right.indices]]
    return None if run.empty else heading(run, main_split(run))


def _numbers(test: ClaimTest) -> dict[str, Any]:
    """The difference with the interval that its verdict is read off, and what could have been detected."""
    claim, corrected = test.pair.claim, test.corrected
    if test.pair.test is None:
        return dict.fromkeys(("difference", "low", "high", "coverage", "p_value", "p_holm", "over", "detectable"))
    estimate = test.pair.test.estimate
    covered = coverage(claim, corrected.level, test.widening) if corrected else 1 - LEVEL
    low, high = estimate.interval(covered)
    noise = Noise(estimate.standard_error, estimate.df)
    return {
        "difference": estimate.value,
        "low": low,
        "high": high,
        "coverage": covered,
        "p_value": corrected.p if corrected else None,
        "p_holm": corrected.holm if corrected else None,
        "over": estimate.over,
        "detectable": _detectable(claim, corrected.strictest, test.widening, noise) if corrected else None,
    }


def _detectable(claim: Claim, level: float, widened: float, noise: Noise) -> float:
    """The smallest difference, or margin, that is found with a power of 80 %."""
    return question_of(claim, single_level(claim, level, widened)).smallest(noise)


def _verdict(test: ClaimTest) -> Verdict:
    """The verdict on a claim, and what would decide one that is open."""
    pair, estimate, corrected = test.pair, test.pair.difference, test.corrected
    if corrected is None or estimate is None:
        return obstacle(pair) or Verdict(NOT_RUN)
    text = decision(pair.claim, estimate, corrected.level, test.widening)
    if text != UNDECIDED:
        return Verdict(text)
    design = pair.design
    if design is None:
        return Verdict(UNDECIDED, "more seeds" if estimate.over == "seeds only" else "")
    open_still = Verdict(UNDECIDED, what_would_decide(pair.claim, design, corrected.level, estimate.value))
    return undecidable(pair.claim, design) or open_still


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
