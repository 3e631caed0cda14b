"""What sources claim: `experiments/<study>/claims.yaml`, and which two cells of a study's runs each claim is about.

A claim names two cells and what it says of them: that the left one is "greater", by as much as is `claimed` where the
source states it, or that the two are "equal" within a margin.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from src.analysis.comparison import CELL
from src.errors import UserError, first_line, nearest_first

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
GREATER, EQUAL = "greater", "equal"
SELECTABLE = ("task", "model", "adapter", "rank", "target", "lr")
REQUIRED = {"claim": str, "source": str, "left": dict, "right": dict, "expected": str}
OPTIONAL = ("margin", "claimed")


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, who says it, the two cells, and what is expected of the left beside the right one.

    `margin` is how far "equal" reaches, `claimed` by how much the source has "greater" better, 0 where it doesn't say.
    Both are in the metric's unit, such as 0.01 of accuracy for a point.
    """

    claim: str
    source: str
    left: dict[str, Any]
    right: dict[str, Any]
    expected: str
    margin: float = 0.0
    claimed: float = 0.0

    @property
    def size(self) -> float:
        """The margin or the claimed difference; 0 where none is stated."""
        return self.margin or self.claimed


@dataclass(frozen=True)
class Match:
    """The cells of some runs that a claim's selector fits, by their indices, and what they differ in."""

    indices: list[int]
    differing: str = ""


def claims(study: str) -> list[Claim]:
    """The claims of a study, none where it has no file of them.

    Raises:
        UserError: the file is no list of claims, or a claim is written wrongly.
    """
    path = EXPERIMENTS / study / "claims.yaml"
    if not path.exists():
        return []
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {first_line(error)}\nMend it: a list of claims in YAML.") from error
    if not isinstance(read, list) or not read:
        raise UserError(f"{path} holds no list of claims.\nBegin each with '- claim: ...', as docs/extend.md says.")
    return [_claim(path, entry) for entry in read]


def _claim(path: Path, entry: Any) -> Claim:
    """One claim of the file.

    Raises:
        UserError: it is written wrongly.
    """
    named = entry.get("claim") if isinstance(entry, Mapping) else entry
    wrong = _what_is_wrong(entry)
    if wrong:
        raise UserError(f"{path}: the claim '{named}' can't be read: {wrong[0]}.\n{wrong[1]}.")
    return Claim(**entry)


def _what_is_wrong(entry: Any) -> tuple[str, str] | None:
    """What is wrong with a claim as it is written, and what is allowed; None where nothing is."""
    keys = ", ".join((*REQUIRED, *OPTIONAL))
    if not isinstance(entry, Mapping):
        return "it is no mapping", f"Write {keys}"
    for key in entry:
        if key not in (*REQUIRED, *OPTIONAL):
            return f"it has '{key}'", f"Allowed: {', '.join(nearest_first(str(key), (*REQUIRED, *OPTIONAL)))}"
    for key, kind in REQUIRED.items():
        if not isinstance(entry.get(key), kind):
            return f"{key} is {entry.get(key)!r}", f"Give {key}, a {'mapping' if kind is dict else 'text'}"
    unknown = [key for key in (*entry["left"], *entry["right"]) if key not in SELECTABLE]
    if unknown:
        known = ", ".join(nearest_first(str(unknown[0]), SELECTABLE))
        return f"cells aren't named by '{unknown[0]}'", f"Allowed: {known}"
    sizes = {key: entry.get(key) for key in OPTIONAL if key in entry}
    allowed = {GREATER: [set(), {"claimed"}], EQUAL: [{"margin"}]}.get(entry["expected"], [])
    if set(sizes) not in allowed or not all(map(_is_positive, sizes.values())):
        shown = " ".join([f"expected: {entry['expected']}", *(f"{key}: {value}" for key, value in sizes.items())])
        return (
            shown,
            f"Allowed: {GREATER}, with or without a claimed difference above 0, or {EQUAL} with a margin above 0",
        )
    return None


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def cells_of(cells: pd.DataFrame, selector: Mapping[str, Any]) -> Match:
    """The cells with a finished run that a selector names."""
    fits = (cells["n"] > 0).to_numpy()  # a cell whose runs all failed says nothing of a claim
    for key, value in selector.items():
        fits = fits & (cells[key] == value).fillna(False).to_numpy(dtype=bool)
    indices = [int(index) for index in np.flatnonzero(fits)]
    return Match(indices, _differing(cells.iloc[indices]) if len(indices) > 1 else "")


def _differing(cells: pd.DataFrame) -> str:
    """The names of what the cells differ in."""
    return ", ".join(key for key in CELL if cells[key].nunique(dropna=False) > 1)


def selector_text(selector: Mapping[str, Any]) -> str:
    """A selector in words, as in "lora r 8 qv"."""
    return " ".join(f"r {value}" if key == "rank" else str(value) for key, value in selector.items())
