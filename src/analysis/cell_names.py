"""Cells by their names, as in "lora r8": what each is called, and which one is meant.

A name is the method and its rank, and beside these what else the cells differ in: target set, task, model, and where
that isn't enough the learning rate, the scaling, settings, and what the runs were made with.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from src.analysis.comparison import MADE_WITH
from src.analysis.texts import is_missing
from src.errors import UserError, nearest_first

FACTS = ("task", "model", "adapter", "rank", "trained_rank", "target", "lr", "alpha", "differs")
ALWAYS_IF_SEVERAL = ("target", "task", "model")
IF_STILL_ALIKE = ("lr", "alpha", "differs", *MADE_WITH)
LISTED = 10  # cells in a message
# A number with what it is a number of, in the ways that people write it: r8, r 8, rank 8, rank=8.0, lr=1e-3.
NUMBER = re.compile(r"\b(rank|r|of|lr|alpha)[ =:]*((?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?=$|[\s,;])", re.IGNORECASE)
Wanted = str | Mapping[str, Any]


def cell_names(cells: pd.DataFrame) -> list[str]:
    """The name of each cell, no two alike.

    Args:
        cells: the rows of a comparison, in which no two agree in all that makes a cell.
    """
    parts = [[str(cell.adapter), *_rank(cell)] for cell in cells.itertuples()]
    rows = cells.to_dict("records")
    for key in ALWAYS_IF_SEVERAL:
        if cells[key].nunique() > 1:
            parts = [[*part, *_part(key, row[key])] for part, row in zip(parts, rows, strict=True)]
    for key in IF_STILL_ALIKE:
        counts = Counter(map(tuple, parts))
        parts = [
            [*part, *(_part(key, row[key]) if counts[tuple(part)] > 1 else [])]
            for part, row in zip(parts, rows, strict=True)
        ]
    return [" ".join(part) for part in parts]


def _rank(cell: Any) -> list[str]:
    """The rank as a part of the name, and of which one where a smaller rank came of a training."""
    if is_missing(cell.rank):
        return []
    nested = not is_missing(cell.trained_rank) and cell.trained_rank != cell.rank
    return [f"r{cell.rank}" + (f" of {cell.trained_rank}" if nested else "")]


def _part(key: str, value: Any) -> list[str]:
    """A fact as a part of a name; none where it is missing."""
    if is_missing(value) or value == "":
        return []
    return [f"{key} {value:g}" if key in ("lr", "alpha") else str(value)]


def find_cell(cells: pd.DataFrame, wanted: Wanted) -> int:
    """The index of the cell that is meant.

    Args:
        cells: the rows of a comparison.
        wanted: its name; some words of it that fit no other cell, such as "lora r8"; or its facts, such as
            `{"adapter": "lora", "rank": 8}`, of which None says that there is none.

    Raises:
        UserError: no cell fits, or several do; the message names the nearest, or all that fit.
    """
    names = cell_names(cells)
    if not isinstance(wanted, str | Mapping):
        raise UserError(f"{wanted!r} names no cell.\nAllowed: a name such as '{names[0]}', or a mapping of its facts.")
    if isinstance(wanted, str):
        fits = [index for index, name in enumerate(names) if name == " ".join(wanted.split())]
        fits = fits or [index for index, words in enumerate(_all_words(cells)) if _words(wanted) <= words]
        shown = f"'{wanted}'"
    else:
        _check_facts(wanted)
        rows = cells.to_dict("records")
        fits = [i for i, row in enumerate(rows) if all(_equal(row[key], value) for key, value in wanted.items())]
        shown = ", ".join(f"{key}={value}" for key, value in wanted.items())
    if len(fits) == 1:
        return fits[0]
    if fits:
        fitting = [names[index] for index in fits]
        raise UserError(f"{shown or 'No name'} fits {len(fits)} cells: {_listed(fitting)}.\nName one of them.")
    near = _listed(nearest_first(wanted if isinstance(wanted, str) else " ".join(map(str, wanted.values())), names))
    raise UserError(f"{shown} is no cell of these runs.\nAllowed, the nearest first: {near}.")


def _check_facts(wanted: Mapping[str, Any]) -> None:
    """Refuse a fact by which no cell is known."""
    for key in wanted:
        if key not in FACTS:
            raise UserError(f"Cells aren't named by {key}.\nAllowed: {', '.join(nearest_first(key, FACTS))}.")


def _equal(fact: Any, value: Any) -> bool:
    """Say whether a cell's fact is the value, numbers as numbers: 8.0 is 8."""
    if is_missing(fact) or value is None:
        return bool(is_missing(fact) and value is None)
    return bool(fact == value)


def _listed(names: list[str]) -> str:
    """The names for a message, the first of them where they are many."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _all_words(cells: pd.DataFrame) -> Iterable[set[str]]:
    """For each cell all words that it may be named by."""
    for cell, row in zip(cells.itertuples(), cells.to_dict("records"), strict=True):
        parts = [part for key in (*ALWAYS_IF_SEVERAL, *IF_STILL_ALIKE) for part in _part(key, row[key])]
        yield _words(" ".join([str(cell.adapter), *_rank(cell), *parts]))


def _words(text: str) -> set[str]:
    """The words of a name; a number and what it is a number of are one, however they are written."""
    numbers = {f"{match[1][0].lower()}={float(match[2]):g}" for match in NUMBER.finditer(text)}
    return numbers | set(NUMBER.sub(" ", text).replace(",", " ").split())
