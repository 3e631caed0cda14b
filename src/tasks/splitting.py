"""Hold out a share of rows: the same share of every class, the same rows whatever their order, equal texts together."""

import hashlib
from collections import defaultdict
from typing import Any

from src.tasks.overlap import compared


def stratified(rows: list[dict[str, Any]], share: float, seed: int, purpose: str) -> set[int]:
    """Indices of the rows that are held out.

    Rows whose inputs are equal but for case, punctuation and spaces are on one side. A class gives as many rows as its
    share comes to, rounded so that all classes together give `share` of the rows; a class of one row keeps it.

    Args:
        share: of the rows, between 0 and 1.
        purpose: "validation" or "test", which are drawn independently.
    """
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[compared(row)].append(index)
    # By a hash of the input alone: a row that is added elsewhere moves no other.
    in_order = sorted(groups.values(), key=lambda group: _draw(compared(rows[group[0]]), seed, purpose))
    classes: dict[Any, list[list[int]]] = defaultdict(list)
    for group in in_order:
        classes[_stratum(rows[group[0]])].append(group)
    held_out: set[int] = set()
    for label, quota in _quotas({label: sum(map(len, its)) for label, its in classes.items()}, share).items():
        taken = 0
        for group in classes[label]:
            # A group that would be too many stays whole where it is.
            if taken + len(group) <= quota:
                held_out.update(group)
                taken += len(group)
    return held_out


def _draw(key: tuple[str, ...], seed: int, purpose: str) -> bytes:
    return hashlib.sha256(f"{purpose} {seed} {key}".encode()).digest()


def _stratum(row: dict[str, Any]) -> Any:
    """The row's class; numbers and texts are not stratified."""
    label = row.get("label")
    return label if isinstance(label, int) else None


def _quotas(sizes: dict[Any, int], share: float) -> dict[Any, int]:
    """How many rows each class gives: rounded down, and what is missing from those that were rounded most."""
    quotas = {label: int(size * share) for label, size in sizes.items()}
    # One at least, however few rows there are: a split of none can't be scored.
    missing = max(1, round(sum(sizes.values()) * share)) - sum(quotas.values())
    by_rest = sorted(sizes, key=lambda label: (quotas[label] - sizes[label] * share, str(label)))
    for label in by_rest[:missing]:
        if quotas[label] + 1 < sizes[label]:
            quotas[label] += 1
    return quotas
