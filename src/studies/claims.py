"""Claims of the sources held against a study's runs: `experiments/<study>/claims.yaml` says which cells to compare.

A claim names two cells and what it says of them: that the first is "greater", or that the two are "equal" within a
margin. What the runs say is a difference with its interval and a p-value, corrected for the number of the study's
claims (Holm), and a verdict on this model and data.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from src.analysis.comparison import Comparison
from src.analysis.statistics import LEVEL, PairedTest, holm
from src.errors import UserError, nearest_first

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_RUN = "reproduced", "not reproduced", "undecided", "not run"
GREATER, EQUAL = "greater", "equal"
SELECTABLE = ("task", "model", "adapter", "rank", "target", "lr")


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, who says it, the two cells, and what is expected of the first beside the second.

    `margin` (in the metric's unit, such as 0.01 of accuracy) is how far "equal" reaches.
    """

    claim: str
    source: str
    left: dict[str, Any]
    right: dict[str, Any]
    expected: str
    margin: float = 0.0


def claims(study: str) -> list[Claim]:
    """The claims of a study, none where it has no file of them.

    Raises:
        UserError: a claim is written wrongly.
    """
    path = EXPERIMENTS / study / "claims.yaml"
    if not path.exists():
        return []
    read = [Claim(**claim) for claim in yaml.safe_load(path.read_text(encoding="utf-8"))]
    for claim in read:
        unknown = [key for key in {**claim.left, **claim.right} if key not in SELECTABLE]
        if claim.expected not in (GREATER, EQUAL) or unknown or (claim.expected == EQUAL) != (claim.margin > 0):
            allowed = ", ".join(nearest_first(unknown[0] if unknown else "", SELECTABLE))
            raise UserError(
                f"{path}: the claim '{claim.claim}' can't be read.\n"
                f"Cells are named by {allowed}; `expected` is {GREATER}, or {EQUAL} with a margin above 0."
            )
    return read


def claims_table(study: str, comparison: Comparison) -> pd.DataFrame:
    """A row for each claim of the study: the two scores, their difference, and the verdict.

    Raises:
        UserError: a claim is written wrongly, or fits several cells of the runs.
    """
    study_claims = claims(study)
    pairs = [
        (_index_of(comparison.cells, claim.left), _index_of(comparison.cells, claim.right)) for claim in study_claims
    ]
    tests = [None if None in pair else comparison.test(*pair) for pair in pairs]  # type: ignore[arg-type]
    # Holm over all claims of the study that could be tested; one that wasn't run takes no part in the correction.
    tested = [index for index, test in enumerate(tests) if test is not None]
    adjusted = dict(zip(tested, holm([test.p_value for test in tests if test is not None]), strict=True))
    rows = [
        _row(claim, comparison.cells, pair, test, adjusted.get(index, float("nan")))
        for index, (claim, pair, test) in enumerate(zip(study_claims, pairs, tests, strict=True))
    ]
    return pd.DataFrame(rows)


def _index_of(cells: pd.DataFrame, selector: dict[str, Any]) -> int | None:
    """The cell that a selector names, None where it wasn't run.

    Raises:
        UserError: several cells fit.
    """
    fits = np.ones(len(cells), dtype=bool)
    for key, value in selector.items():
        fits &= (cells[key] == value).fillna(False).to_numpy(dtype=bool)
    fits &= (cells["n"] > 0).to_numpy()  # a cell whose runs all failed says nothing of a claim
    indices = np.flatnonzero(fits)
    if len(indices) > 1:
        raise UserError(
            f"A claim's {selector} fits {len(indices)} cells of these runs, which differ in "
            f"{_differing(cells.iloc[indices])}.\n"
            "Name one of them in claims.yaml, or keep the others in another folder."
        )
    return int(indices[0]) if len(indices) else None


def _differing(cells: pd.DataFrame) -> str:
    """The names of what the cells differ in."""
    keys = [key for key in (*SELECTABLE, "trained_rank", "alpha", "differs") if cells[key].nunique(dropna=False) > 1]
    return ", ".join(keys)


def _row(
    claim: Claim, cells: pd.DataFrame, pair: tuple[int | None, int | None], test: PairedTest | None, p_value: float
) -> dict[str, Any]:
    """A claim's row of the table; `pair` holds the indices of its two cells, `p_value` is corrected."""
    left, right = (None if index is None else cells.iloc[index] for index in pair)
    return {
        "claim": claim.claim,
        "source": claim.source,
        "left": _named(claim.left),
        "right": _named(claim.right),
        "expected": claim.expected if claim.expected == GREATER else f"{EQUAL} within {claim.margin:g}",
        **{f"{side}_{key}": None if cell is None else cell[key]
           for side, cell in (("left", left), ("right", right)) for key in ("mean", "body_trained", "n")},
        "unit": next((cell["unit"] if cell["split"] == "test" else cell["validation_unit"]
                      for cell in (left, right) if cell is not None), None),
        "difference": test.difference if test else None,
        "low": test.low if test else None,
        "high": test.high if test else None,
        "p_value": p_value,
        "over": test.over if test else None,
        "verdict": verdict(claim, test, p_value, higher_is_better=left is None or bool(left["higher_is_better"])),
    }  # fmt: skip


def _named(cell: dict[str, Any]) -> str:
    """A selector in words, as in "lora r 8 qv"."""
    return " ".join(f"r {value}" if key == "rank" else str(value) for key, value in cell.items())


def verdict(claim: Claim, test: PairedTest | None, p_value: float, *, higher_is_better: bool = True) -> str:
    """What a test says of a claim.

    "greater" is reproduced by a significant difference in its favor; "equal" by an interval within the margin, and not
    reproduced by one that lies outside of it altogether. What is neither is undecided: these runs can't tell.
    """
    if test is None:
        return NOT_RUN
    sign = 1 if higher_is_better else -1
    # Turned so that a positive difference speaks for the left cell, also for a loss.
    low, high = sorted((sign * test.low, sign * test.high))
    # An equivalence test by interval inclusion: equal means that the whole interval lies within the margin.
    if claim.expected == EQUAL:
        if -claim.margin <= low and high <= claim.margin:
            return REPRODUCED
        return NOT_REPRODUCED if low > claim.margin or high < -claim.margin else UNDECIDED
    # No significant difference isn't evidence of none: the claim stays open.
    if p_value >= LEVEL:
        return UNDECIDED
    return REPRODUCED if sign * test.difference > 0 else NOT_REPRODUCED


def readable_claims(table: pd.DataFrame) -> pd.DataFrame:
    """The claims as texts for people; scores of shares are in percent, their differences in percentage points.

    Args:
        table: what `claims_table` gives.
    """
    scale = np.where(table["unit"] == "share", 100.0, 1.0)
    rows = []
    for factor, row in zip(scale, table.to_dict("records"), strict=True):
        sizes = [row["left_body_trained"], row["right_body_trained"]]
        rows.append(
            {
                "claim": row["claim"],
                "source": row["source"],
                "cells": f"{row['left']} against {row['right']}",
                "parameters": " against ".join("-" if pd.isna(size) else f"{int(size):,}" for size in sizes),
                "scores": " against ".join(_number(row[key], factor) for key in ("left_mean", "right_mean")),
                "difference": _difference(row, factor),
                "p": "-" if pd.isna(row["p_value"]) else f"{row['p_value']:.2g}",
                "verdict": row["verdict"],
            }
        )
    return pd.DataFrame(rows)


def _number(value: float | None, factor: float) -> str:
    """A score in its unit, with one decimal in percent and three otherwise."""
    return "-" if value is None or pd.isna(value) else f"{factor * value:.{1 if factor == 100 else 3}f}"


def _difference(row: dict[str, Any], factor: float) -> str:
    """The difference with the ends of its interval, all with their signs."""
    if row["difference"] is None or pd.isna(row["difference"]):
        return "-"
    digits = 1 if factor == 100 else 3
    middle, low, high = (f"{factor * row[key]:+.{digits}f}" for key in ("difference", "low", "high"))
    return f"{middle} [{low}, {high}]"
